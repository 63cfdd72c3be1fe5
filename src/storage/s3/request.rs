//! What requests carry beyond their object: encryption, ACL, class, tags, lock, and who pays.
//!
//! From what the user chose and from a key to the headers of a request; which key is what, [`crate::layout`] says.
//! Nothing that was not chosen is sent. Sends nothing itself, and asks nobody for the time.

use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectCannedAcl, ObjectLockMode, RequestPayer, ServerSideEncryption, StorageClass as Class};
use http::Uri;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::customer::CustomerKey;
use crate::config::requests::{Acl, KmsKey, LockMode, Sse, StorageClass, Tags};
use crate::config::value::Checksum;
use crate::crypt::wrapped::DATA_KEY_LIFE;
use crate::error::{Error, Kind, Result};
use crate::layout::{Family, Key};

/// What the user chose for requests; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// With which keys of the service it encrypts.
    pub sse: Option<Sse>,
    /// With which key of KMS.
    pub kms_key: Option<KmsKey>,
    /// Whether S3 asks KMS once for many objects.
    pub bucket_key: Option<bool>,
    /// The file with a key that the service does not keep.
    pub customer_key_file: Option<PathBuf>,
    /// Who may read what was stored.
    pub acl: Option<Acl>,
    /// The class of WAL segments.
    pub wal_class: Option<StorageClass>,
    /// The class of the parts of base backups.
    pub backup_class: Option<StorageClass>,
    /// Tags of every object.
    pub tags: Option<Tags>,
    /// How strictly objects are locked.
    pub lock: Option<LockMode>,
    /// How long WAL is locked.
    pub wal_lock: Option<Duration>,
    /// How long base backups are locked.
    pub backup_lock: Option<Duration>,
    /// Whether whoever asks pays.
    pub requester_pays: bool,
}

/// What goes into requests: the same, found to be possible, and with the key read.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    wanted: Wanted,
    customer_key: Option<CustomerKey>,
    /// As `x-amz-tagging` has them.
    tags: Option<String>,
}

/// What a query string takes as it is (RFC 3986, 2.3): `x-amz-tagging` is written like one.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Carried {
    /// Checks what was chosen against itself, and reads the key's file.
    ///
    /// # Errors
    /// [`Kind::Config`] for what contradicts itself or cannot be a key; an error of the local machine if the file cannot
    /// be read.
    pub fn plan(wanted: Wanted, checksum: Checksum, endpoint: &Uri) -> Result<Carried> {
        check_encryption(&wanted, endpoint)?;
        check_lock(&wanted, checksum)?;
        check_classes(&wanted)?;
        let customer_key = wanted.customer_key_file.as_deref().map(CustomerKey::read).transpose()?;
        let tags = wanted.tags.as_ref().map(encoded);
        Ok(Carried { wanted, customer_key, tags })
    }

    /// With all that an object under this key is to have, which is being stored at `now`.
    pub fn put(&self, request: PutObjectFluentBuilder, key: &str, now: Timestamp) -> PutObjectFluentBuilder {
        let key = Key::parse(key);
        let until = key.as_ref().and_then(|key| self.locked_until(key, now));
        let customer = self.customer_key.as_ref();
        request
            .set_server_side_encryption(self.wanted.sse.map(encryption))
            .set_ssekms_key_id(self.wanted.kms_key.as_ref().map(|key| key.as_str().to_owned()))
            .set_bucket_key_enabled(self.wanted.bucket_key)
            .set_sse_customer_algorithm(customer.map(CustomerKey::algorithm))
            .set_sse_customer_key(customer.map(CustomerKey::key))
            .set_sse_customer_key_md5(customer.map(CustomerKey::md5))
            .set_acl(self.wanted.acl.map(canned))
            .set_storage_class(key.as_ref().and_then(|key| self.class(key)).map(|class| Class::from(class.as_str())))
            .set_tagging(self.tags.clone())
            .set_object_lock_mode(self.wanted.lock.filter(|_| until.is_some()).map(mode))
            .set_object_lock_retain_until_date(until)
            .set_request_payer(self.payer())
    }

    /// With what reading needs.
    pub fn get(&self, request: GetObjectFluentBuilder) -> GetObjectFluentBuilder {
        let customer = self.customer_key.as_ref();
        request
            .set_sse_customer_algorithm(customer.map(CustomerKey::algorithm))
            .set_sse_customer_key(customer.map(CustomerKey::key))
            .set_sse_customer_key_md5(customer.map(CustomerKey::md5))
            .set_request_payer(self.payer())
    }

    /// With what looking needs: the same.
    pub fn head(&self, request: HeadObjectFluentBuilder) -> HeadObjectFluentBuilder {
        let customer = self.customer_key.as_ref();
        request
            .set_sse_customer_algorithm(customer.map(CustomerKey::algorithm))
            .set_sse_customer_key(customer.map(CustomerKey::key))
            .set_sse_customer_key_md5(customer.map(CustomerKey::md5))
            .set_request_payer(self.payer())
    }

    /// For every request.
    pub fn payer(&self) -> Option<RequestPayer> {
        self.wanted.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Is what is stored under this key to be restored before it can be read?
    pub fn freezes(&self, key: &str) -> bool {
        Key::parse(key).is_some_and(|key| self.class(&key).is_some_and(StorageClass::is_frozen))
    }

    /// Small objects stay in the bucket's usual class: they are read whenever somebody looks at the archive, and the cheap
    /// classes count each object as 128 KiB (Amazon S3 User Guide, "Understanding and managing Amazon S3 storage classes").
    fn class(&self, key: &Key) -> Option<&StorageClass> {
        match key.family() {
            Family::Wal if key.is_bulk() => self.wanted.wal_class.as_ref(),
            Family::Backup if key.is_bulk() => self.wanted.backup_class.as_ref(),
            _ => None,
        }
    }

    /// Everything of a backup, and all WAL; what belongs to the archive as a whole says nothing that could be lost.
    fn locked_until(&self, key: &Key, now: Timestamp) -> Option<DateTime> {
        let time = match key.family() {
            Family::Wal => self.wanted.wal_lock,
            Family::Backup => self.wanted.backup_lock,
            // Without its key an object is lost. What is encrypted with a key is stored for as long as the key is written
            // with, and a backup that began on its last day takes its time: by so much its lock is longer.
            Family::Keys => {
                let longest = self.wanted.wal_lock.max(self.wanted.backup_lock);
                longest.map(|lock| lock.saturating_add(DATA_KEY_LIFE).saturating_add(LONGEST_BACKUP))
            }
            Family::Archive => None,
        }?;
        let seconds = i64::try_from(time.as_secs()).ok()?;
        // Rounded up: a lock that ends early is none.
        Some(DateTime::from_secs(now.as_second().saturating_add(seconds).saturating_add(1)))
    }
}

/// A backup that takes longer than that has parts that outlast their key's lock.
const LONGEST_BACKUP: Duration = Duration::from_secs(2 * 86_400);

fn check_encryption(wanted: &Wanted, endpoint: &Uri) -> Result<()> {
    let kms = matches!(wanted.sse, Some(Sse::Kms | Sse::KmsTwice));
    if wanted.customer_key_file.is_some() {
        if wanted.sse.is_some() || wanted.kms_key.is_some() || wanted.bucket_key.is_some() {
            return Err(Error::new(
                Kind::Config,
                "an object can be encrypted with the store's key or with yours, not with both",
            )
            .detail("s3-sse-c-key-file is set, and one of s3-sse, s3-sse-kms-key and s3-sse-bucket-key as well")
            .hint("Unset WALDEN_S3_SSE_C_KEY_FILE (--s3-sse-c-key-file), or the others."));
        }
        if endpoint.scheme_str() != Some("https") {
            return Err(Error::new(Kind::Config, "the key in s3-sse-c-key-file would be sent in the clear")
                .detail(format!("the endpoint is {endpoint}, and S3 takes such a key over https only"))
                .hint("Set AWS_ENDPOINT_URL_S3 to an https:// address, or unset WALDEN_S3_SSE_C_KEY_FILE."));
        }
    }
    if wanted.kms_key.is_some() && !kms {
        return Err(Error::new(Kind::Config, "s3-sse-kms-key is set, but not that KMS encrypts")
            .hint("Set s3-sse to aws:kms or aws:kms:dsse (--s3-sse, WALDEN_S3_SSE), or unset s3-sse-kms-key."));
    }
    if wanted.bucket_key.is_some() && wanted.sse != Some(Sse::Kms) {
        return Err(Error::new(Kind::Config, "s3-sse-bucket-key is set, but there is nothing that it could change")
            .detail("S3 derives keys for aws:kms alone, and for aws:kms:dsse neither")
            .hint("Set s3-sse to aws:kms (--s3-sse, WALDEN_S3_SSE), or unset s3-sse-bucket-key."));
    }
    Ok(())
}

fn check_lock(wanted: &Wanted, checksum: Checksum) -> Result<()> {
    let times = wanted.wal_lock.or(wanted.backup_lock);
    match (wanted.lock, times) {
        (Some(_), None) => {
            Err(Error::new(Kind::Config, "s3-object-lock is set, but not for how long anything is locked")
                .hint("Set s3-wal-lock or s3-backup-lock (WALDEN_S3_WAL_LOCK, WALDEN_S3_BACKUP_LOCK), such as 35d."))
        }
        (None, Some(_)) => {
            Err(Error::new(Kind::Config, "s3-wal-lock or s3-backup-lock is set, but not how objects are locked")
                .hint("Set s3-object-lock to governance or compliance (--s3-object-lock, WALDEN_S3_OBJECT_LOCK)."))
        }
        (Some(_), Some(_)) if checksum == Checksum::Off => {
            Err(Error::new(Kind::Config, "S3 locks no object that is sent without a checksum")
                .detail("s3-object-lock is set, and s3-checksum is off")
                .hint("Set s3-checksum to auto (--s3-checksum, WALDEN_S3_CHECKSUM), or unset s3-object-lock."))
        }
        _ => Ok(()),
    }
}

/// PostgreSQL may offer a file again that is in the archive already. To say so, it must be read.
fn check_classes(wanted: &Wanted) -> Result<()> {
    match wanted.wal_class.as_ref().filter(|class| class.is_frozen()) {
        None => Ok(()),
        Some(class) => Err(Error::new(Kind::Config, "WAL cannot be archived in a class that cannot be read at once")
            .detail(format!("s3-wal-storage-class is {}", class.as_str()))
            .hint(
                "Set WALDEN_S3_WAL_STORAGE_CLASS to GLACIER_IR or STANDARD_IA, and let a lifecycle rule move old WAL.",
            )),
    }
}

fn encryption(sse: Sse) -> ServerSideEncryption {
    match sse {
        Sse::S3 => ServerSideEncryption::Aes256,
        Sse::Kms => ServerSideEncryption::AwsKms,
        Sse::KmsTwice => ServerSideEncryption::AwsKmsDsse,
    }
}

fn canned(acl: Acl) -> ObjectCannedAcl {
    match acl {
        Acl::Private => ObjectCannedAcl::Private,
        Acl::BucketOwnerRead => ObjectCannedAcl::BucketOwnerRead,
        Acl::BucketOwnerFullControl => ObjectCannedAcl::BucketOwnerFullControl,
    }
}

fn mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

fn encoded(tags: &Tags) -> String {
    let pair = |(key, value)| format!("{}={}", utf8_percent_encode(key, ENCODED), utf8_percent_encode(value, ENCODED));
    tags.iter().map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Value;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const SYSTEM: &str = "7710427967336607753";
    const DATA_KEY: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const BACKUP: &str = "7710427967336607753/backup/20261121T013005Z-0000000100000000000000AB";

    fn plan(wanted: Wanted) -> Result<Carried> {
        Carried::plan(wanted, Checksum::Crc32c, &Uri::from_static("https://s3.eu-central-1.amazonaws.com/"))
    }

    fn class(text: &str) -> Option<StorageClass> {
        Some(StorageClass::read(text).unwrap())
    }

    #[test]
    fn only_what_is_large_and_seldom_read_gets_a_class() {
        let carried =
            plan(Wanted { wal_class: class("W"), backup_class: class("GLACIER"), ..Wanted::default() }).unwrap();
        let given = |key: &str| Some(carried.class(&Key::parse(key)?)?.as_str().to_owned());
        let wal = |name: &str| given(&format!("{SYSTEM}/wal/00000001/{name}"));
        assert_eq!(wal("0000000100000000000000AB").as_deref(), Some("W"));
        assert_eq!(wal("0000000100000000000000AB.partial").as_deref(), Some("W"));
        assert_eq!(wal("0000000100000000000000AB.00000028.backup"), None);
        assert_eq!(given(&format!("{SYSTEM}/wal/00000002.history")), None);
        assert_eq!(given(&format!("{BACKUP}/v0/000000")).as_deref(), Some("GLACIER"));
        for key in ["walden.json", "walden-probe.txt", &format!("{BACKUP}/files"), &format!("{BACKUP}/backup.json")] {
            assert_eq!(given(key), None, "{key}");
            assert!(Key::parse(key).is_some() && !carried.freezes(key), "{key}");
        }
        assert!(carried.freezes(&format!("{BACKUP}/v0/000000")));
    }

    proptest! {
        #[test]
        fn a_lock_lasts_at_least_as_long_as_was_asked_for_and_hardly_longer(now in 0i64..4_000_000_000_000, days in 0u64..36_500) {
            let (wal, backup) = (Some(DAY * days as u32), Some(DAY * 3));
            let wanted = Wanted { lock: Some(LockMode::Governance), wal_lock: wal, backup_lock: backup, ..Wanted::default() };
            let (carried, now) = (plan(wanted).unwrap(), Timestamp::from_millisecond(now).unwrap());
            let locked = |key: &str| carried.locked_until(&Key::parse(key).unwrap(), now).map(|end| end.secs() - now.as_second());
            prop_assert_eq!(locked(&format!("{SYSTEM}/wal/00000002.history")), Some(86_400 * days as i64 + 1));
            prop_assert_eq!(locked(&format!("{BACKUP}/backup.json")), Some(86_400 * 3 + 1));
            prop_assert_eq!(locked("walden.json"), None);
            // What is encrypted on a key's last day is locked from then on, and the key must outlast it.
            let key = locked(&format!("{SYSTEM}/keys/{DATA_KEY}")).unwrap();
            prop_assert!(key > 86_400 * (days.max(3) as i64 + 30));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_the_setting_that_mends_it() {
        let sse = |sse| Wanted { sse: Some(sse), ..Wanted::default() };
        let kms_key = Some(KmsKey::read("alias/walden").unwrap());
        let own = Some(PathBuf::from("/nowhere/key"));
        for (wanted, mending) in [
            (Wanted { customer_key_file: own.clone(), ..sse(Sse::S3) }, "WALDEN_S3_SSE_C_KEY_FILE"),
            (
                Wanted { customer_key_file: own, bucket_key: Some(true), ..Wanted::default() },
                "WALDEN_S3_SSE_C_KEY_FILE",
            ),
            (Wanted { kms_key: kms_key.clone(), ..Wanted::default() }, "WALDEN_S3_SSE"),
            (Wanted { kms_key, ..sse(Sse::S3) }, "aws:kms"),
            (Wanted { bucket_key: Some(false), ..sse(Sse::KmsTwice) }, "s3-sse-bucket-key"),
            (Wanted { lock: Some(LockMode::Compliance), ..Wanted::default() }, "WALDEN_S3_WAL_LOCK"),
            (Wanted { backup_lock: Some(DAY), ..Wanted::default() }, "WALDEN_S3_OBJECT_LOCK"),
            (Wanted { wal_class: class("DEEP_ARCHIVE"), ..Wanted::default() }, "lifecycle"),
        ] {
            let error = plan(wanted.clone()).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{wanted:?}");
            assert!(error.advice().unwrap().contains(mending), "{error:?}");
        }
        let locked = Wanted { lock: Some(LockMode::Compliance), wal_lock: Some(DAY), ..Wanted::default() };
        let error = Carried::plan(locked, Checksum::Off, &Uri::from_static("https://x")).unwrap_err();
        assert!(error.advice().unwrap().contains("WALDEN_S3_CHECKSUM"), "{error:?}");
    }

    #[test]
    fn a_key_of_ones_own_does_not_go_over_plain_http() {
        let wanted = Wanted { customer_key_file: Some("/nowhere/key".into()), ..Wanted::default() };
        let error = Carried::plan(wanted, Checksum::Crc32c, &Uri::from_static("http://127.0.0.1:8333/")).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.cause().unwrap().contains("http://127.0.0.1:8333"), "{error:?}");
    }

    #[test]
    fn tags_are_written_like_a_query() {
        let tags = Tags::read("a b=c+d,e=ü/@:=,f=").unwrap();
        assert_eq!(encoded(&tags), "a%20b=c%2Bd&e=%C3%BC%2F%40%3A%3D&f=");
    }
}
