//! From the settings to what requests to S3 carry.

use crate::config::Settings;
use crate::config::options::requests;
use crate::error::Result;
use crate::storage::s3::Wanted;

/// What was chosen, not yet checked against itself.
pub(super) fn wanted(settings: &Settings) -> Result<Wanted> {
    Ok(Wanted {
        sse: settings.find(&requests::S3_SSE)?,
        kms_key: settings.find(&requests::S3_SSE_KMS_KEY)?,
        bucket_key: settings.find(&requests::S3_SSE_BUCKET_KEY)?,
        customer_key_file: settings.find(&requests::S3_SSE_C_KEY_FILE)?.map(|file| file.0),
        acl: settings.find(&requests::S3_ACL)?,
        wal_class: settings.find(&requests::S3_WAL_STORAGE_CLASS)?,
        backup_class: settings.find(&requests::S3_BACKUP_STORAGE_CLASS)?,
        tags: settings.find(&requests::S3_TAGS)?,
        lock: settings.find(&requests::S3_OBJECT_LOCK)?,
        wal_lock: settings.find(&requests::S3_WAL_LOCK)?,
        backup_lock: settings.find(&requests::S3_BACKUP_LOCK)?,
        requester_pays: settings.get(&requests::S3_REQUESTER_PAYS)?,
    })
}
