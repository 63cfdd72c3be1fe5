//! What the user can do about a refusal: one sentence, with a command or a setting that can be typed.

use super::{Refusal, is_full};
use crate::storage::s3::failure::{Action, Attempt};

/// What to do about a store that asks for fewer requests.
pub(in crate::storage::s3) const TOO_MANY: &str = "The store asks for fewer requests: lower --workers or WALDEN_WORKERS, or raise --retry-timeout or WALDEN_RETRY_TIMEOUT.";

impl Refusal {
    /// What can be done; nothing where the kind says it all.
    pub(in crate::storage::s3) fn hint(&self, attempt: &Attempt) -> Option<String> {
        if self.is_foreign(attempt.action) {
            return Some(format!(
                "What answers at {} is not an S3 store: check AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and HTTPS_PROXY and NO_PROXY.",
                attempt.endpoint
            ));
        }
        let code = self.code(attempt.action);
        match code {
            "AccessDenied" | "Forbidden" | "AllAccessDisabled" => Some(self.missing_right(attempt)),
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => Some(self.other_region(attempt)),
            "InvalidRequest" | "InvalidArgument" | "NotImplemented" | "UnsupportedArgument" => {
                Some(self.not_understood().to_owned())
            }
            "NoSuchBucket" => Some(format!(
                "Create the bucket {}, or correct --prefix or WALDEN_PREFIX; AWS_ENDPOINT_URL_S3 says which store is asked.",
                attempt.bucket
            )),
            "InvalidObjectState" => Some(thaw(attempt)),
            _ => match about_place(code).or(about_caller(code)).or(about_content(code)) {
                Some(hint) => Some(hint.to_owned()),
                None => self.by_nature(code, attempt),
            },
        }
    }

    /// For codes that are not known one by one.
    fn by_nature(&self, code: &str, attempt: &Attempt) -> Option<String> {
        let hint = match () {
            () if is_full(code) => "Make room in the store, or raise the quota of the bucket.",
            () if code.starts_with("KMS.") => {
                "Check the key that encrypts the bucket, and that it is enabled: aws kms describe-key --key-id KEY."
            }
            () if self.is_throttling() => TOO_MANY,
            // A reply to HEAD has no code.
            () if self.region.is_some() && self.status == 400 => return Some(self.other_region(attempt)),
            () if self.is_transient(attempt.action) => {
                "It may pass: run the command again, or raise --retry-timeout or WALDEN_RETRY_TIMEOUT."
            }
            () => return None,
        };
        Some(hint.to_owned())
    }

    fn other_region(&self, attempt: &Attempt) -> String {
        match &self.region {
            Some(region) => format!("Set AWS_REGION={region}, which is the region of the bucket."),
            None => format!(
                "Set AWS_REGION to the region of the bucket: aws s3api get-bucket-location --bucket {}.",
                attempt.bucket
            ),
        }
    }

    fn not_understood(&self) -> &'static str {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        if message.contains("checksum") || message.contains("content-md5") {
            return "Set --s3-checksum or WALDEN_S3_CHECKSUM to auto, or to off for a store that does not know Content-MD5 either.";
        }
        // "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to
        // retrieve the object."
        if message.contains("server side encryption") || message.contains("encryption key") {
            return "The object was encrypted with a key of its owner's (SSE-C): name the file that has it with \
                    --s3-sse-c-key-file or WALDEN_S3_SSE_C_KEY_FILE.";
        }
        "The store does not know what the request asks for: see \"walden config\" for the settings that begin with s3-."
    }

    /// "User: ARN is not authorized to perform: ACTION on resource: ARN because no TYPE policy allows the ACTION action", or
    /// "with an explicit deny in a TYPE policy" (IAM User Guide, "Troubleshoot access denied error messages").
    fn missing_right(&self, attempt: &Attempt) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        let after = |words: &str| {
            let rest = message.split_once(words)?.1.trim_start_matches(['"', ' ']);
            rest.split([' ', '"']).next().map(|word| word.trim_end_matches(['.', ',']).to_owned())
        };
        let (action, resource) = match after("to perform:").zip(after("on resource:")) {
            Some(named) => named,
            None => (attempt.action.permission().to_owned(), attempt.resource()),
        };
        let denying = message.split_once("explicit deny in a").map(|(_, rest)| rest.trim_start_matches(['n', ' ']));
        if let Some(policy) = denying {
            let policy = policy.trim_end_matches(['.', ' ']);
            return format!("Change the {policy} that denies {action} on {resource}.");
        }
        let place = match () {
            () if action.starts_with("kms:") => "in the policy of the key and in one of that identity",
            () if message.contains("resource-based policy") => "in the policy of the bucket",
            () if message.contains("identity-based policy") => "in a policy of that identity",
            () if message.contains("VPC endpoint policy") => "in the policy of the VPC endpoint",
            () if message.contains("session policy") => "in the policy of the session",
            () if message.contains("permissions boundary") => "in the permissions boundary of that identity",
            () if message.contains("service control policy") => "in the service control policy of the organization",
            () => "in a policy of that identity, and in the bucket's if that is another account's",
        };
        let mut hint = format!("Allow {action} on {resource} {place}.");
        if matches!(attempt.action, Action::Get | Action::Head) && action == "s3:GetObject" {
            let bucket = attempt.bucket_resource();
            hint.push_str(&format!(
                " Without s3:ListBucket on {bucket}, S3 says the same of an object that is not there."
            ));
        }
        hint
    }
}

/// The place that is asked.
fn about_place(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchAccessPoint" => {
            "Correct the access point in --prefix or WALDEN_PREFIX, or AWS_REGION: it has to be the access point's."
        }
        "InvalidBucketName" => "Correct the name of the bucket in --prefix or WALDEN_PREFIX.",
        _ => return None,
    })
}

/// Who asks, and when.
fn about_caller(code: &str) -> Option<&'static str> {
    Some(match code {
        "InvalidAccessKeyId" => {
            "Check AWS_ACCESS_KEY_ID or AWS_PROFILE, and that AWS_ENDPOINT_URL_S3 names the store that the key is for."
        }
        "SignatureDoesNotMatch" => {
            "Check AWS_SECRET_ACCESS_KEY. If that is right, something between here and the store changes requests: check HTTPS_PROXY and NO_PROXY."
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "Set this machine's clock, and keep it right: timedatectl set-ntp true."
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "Renew the session: AWS_SESSION_TOKEN is no longer valid. A role that AWS_PROFILE or WALDEN_ASSUME_ROLE names is renewed by itself."
        }
        _ => return None,
    })
}

/// What is sent, and what it carries.
fn about_content(code: &str) -> Option<&'static str> {
    Some(match code {
        "EntityTooLarge" => {
            "The store takes smaller objects only: for base backups, lower --part-size or WALDEN_PART_SIZE."
        }
        "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
            "Something between here and the store damages what is sent: check HTTPS_PROXY and NO_PROXY, and use https."
        }
        "MissingContentLength" => {
            "Something between here and the store removes the length of what is sent: check HTTPS_PROXY and NO_PROXY."
        }
        "InvalidStorageClass" => {
            "This store does not know that class: correct s3-wal-storage-class or s3-backup-storage-class \
             (WALDEN_S3_WAL_STORAGE_CLASS, WALDEN_S3_BACKUP_STORAGE_CLASS)."
        }
        "AccessControlListNotSupported" => {
            "This bucket has no ACLs, and its owner owns what is stored in it: unset s3-acl (WALDEN_S3_ACL)."
        }
        _ => return None,
    })
}

/// An object in an archive class has to be brought back first (Amazon S3 User Guide, "Restoring an archived object").
fn thaw(attempt: &Attempt) -> String {
    format!(
        "The object is in an archive class: bring it back first, aws s3api restore-object --bucket {} --key {} \
         --restore-request Days=7, and wait some hours (docs/s3.md has it for many objects).",
        attempt.bucket, attempt.key
    )
}
