//! Accounts with their users, roles, policies and buckets, on MiniStack, which `scripts/ministack` starts.
//!
//! It is told what to do by the root users of the accounts, whose keys are the accounts' numbers, through the APIs of IAM,
//! S3, STS and KMS as everybody knows them; curl signs. Accounts are made by being named.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;

/// Where the buckets lie.
pub const REGION: &str = "eu-central-1";

const JSON: &str = "content-type: application/x-amz-json-1.1";

/// The service; one for all tests of a program.
#[derive(Debug)]
pub struct Ministack {
    endpoint: String,
}

/// Keys that sign requests.
#[derive(Clone, Debug)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    /// For those of a session.
    pub token: Option<String>,
}

/// One account.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub id: &'static str,
    service: &'static Ministack,
}

impl Ministack {
    /// The service that `MINISTACK_ENDPOINT_URL` names, emptied when the first test asks. `None` where there is none, which
    /// is said, and in CI never is the case.
    pub fn shared() -> Option<&'static Ministack> {
        static SHARED: OnceLock<Option<Ministack>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            let service = Ministack { endpoint: std::env::var("MINISTACK_ENDPOINT_URL").ok()? };
            service.curl(&["-X", "POST", &format!("{}/_ministack/reset", service.endpoint)]).unwrap();
            Some(service)
        });
        if shared.is_none() {
            assert!(std::env::var_os("CI").is_none(), "CI must not skip MiniStack");
            eprintln!("SKIPPED: no MiniStack; run scripts/test, or set what scripts/ministack start prints");
        }
        shared.as_ref()
    }

    pub fn account(&'static self, id: &'static str) -> Account {
        Account { id, service: self }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// What walden needs to find the service, besides an identity.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![("AWS_ENDPOINT_URL", self.endpoint.clone()), ("AWS_REGION", REGION.to_owned())]
    }

    /// One request in the name of these keys; `Err` with what the service says if it refuses.
    pub fn request(&self, keys: &Keys, service: &str, path: &str, args: &[&str]) -> Result<String, String> {
        let (scope, user) = (format!("aws:amz:{REGION}:{service}"), format!("{}:{}", keys.id, keys.secret));
        let token = keys.token.as_ref().map(|token| format!("x-amz-security-token: {token}"));
        let url = format!("{}/{path}", self.endpoint);
        let mut all = vec!["--aws-sigv4", &scope, "--user", &user, &url];
        all.extend(token.iter().flat_map(|token| ["-H", token.as_str()]));
        all.extend(args);
        self.curl(&all)
    }

    /// A request to S3, whose payloads go unsigned here.
    pub fn s3(&self, keys: &Keys, method: &str, path: &str, body: &str) -> Result<String, String> {
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        self.request(keys, "s3", path, &["-X", method, "-H", unsigned, "--data-binary", body])
    }

    /// A session of the role.
    pub fn assume(&self, keys: &Keys, role: &str, external_id: &str, seconds: u32) -> Result<Keys, String> {
        let (role, seconds) = (format!("RoleArn={role}"), format!("DurationSeconds={seconds}"));
        let external_id = format!("ExternalId={external_id}");
        let words = ["Action=AssumeRole", "Version=2011-06-15", "RoleSessionName=test", &role, &external_id, &seconds];
        let answer = self.request(keys, "sts", "", &words.map(|word| ["--data-urlencode", word]).concat())?;
        Ok(Keys { token: Some(tag(&answer, "SessionToken")), ..keys_in(&answer) })
    }

    /// How often the holder of these keys has asked the token service for something, as CloudTrail has it; 50 at most.
    pub fn asked_for_tokens(&self, keys: &Keys, account: &Account) -> usize {
        // MiniStack knows an operation by its header, which STS does without.
        let body = serde_json::json!({"LookupAttributes": [
            {"AttributeKey": "AccessKeyId", "AttributeValue": keys.id},
            {"AttributeKey": "EventName", "AttributeValue": "POST.sts"},
        ]});
        let target = "X-Amz-Target: com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents";
        let args = ["-H", target, "-H", JSON, "--data-binary", &body.to_string()];
        let answer = self.request(&account.root(), "cloudtrail", "", &args).unwrap();
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()["Events"].as_array().unwrap().len()
    }

    fn curl(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("curl").args(["-sS", "--fail-with-body"]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Keys {
    /// As walden finds them.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![("AWS_ACCESS_KEY_ID", self.id.clone()), ("AWS_SECRET_ACCESS_KEY", self.secret.clone())];
        env.extend(self.token.iter().map(|token| ("AWS_SESSION_TOKEN", token.clone())));
        env
    }
}

impl Account {
    /// Those of the account's root user.
    pub fn root(&self) -> Keys {
        Keys { id: self.id.to_owned(), secret: "test".to_owned(), token: None }
    }

    pub fn make_bucket(&self, name: &str) {
        let place = format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        self.service.s3(&self.root(), "PUT", name, &place).unwrap();
    }

    pub fn set_bucket_policy(&self, bucket: &str, policy: &str) {
        self.service.s3(&self.root(), "PUT", &format!("{bucket}?policy="), policy).unwrap();
    }

    /// All that is stored from now on is encrypted with this key of KMS.
    pub fn encrypt_bucket(&self, bucket: &str, key: &str) {
        let rule = format!(
            "<ServerSideEncryptionConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule>\
             <ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm>\
             <KMSMasterKeyID>{key}</KMSMasterKeyID></ApplyServerSideEncryptionByDefault>\
             <BucketKeyEnabled>true</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>"
        );
        self.service.s3(&self.root(), "PUT", &format!("{bucket}?encryption="), &rule).unwrap();
    }

    /// A user with one policy, or with none.
    pub fn make_user(&self, name: &str, policy: Option<&str>) -> Keys {
        self.iam(&["Action=CreateUser", &format!("UserName={name}")]);
        if let Some(policy) = policy {
            self.set_user_policy(name, policy);
        }
        keys_in(&self.iam(&["Action=CreateAccessKey", &format!("UserName={name}")]))
    }

    pub fn set_user_policy(&self, name: &str, policy: &str) {
        let (name, policy) = (format!("UserName={name}"), format!("PolicyDocument={policy}"));
        self.iam(&["Action=PutUserPolicy", "PolicyName=only", &name, &policy]);
    }

    /// A role that this trust policy says who may assume, with one policy. Returns its ARN.
    pub fn make_role(&self, name: &str, trust: &str, policy: &str) -> String {
        let trust = format!("AssumeRolePolicyDocument={trust}");
        let answer = self.iam(&["Action=CreateRole", &format!("RoleName={name}"), &trust]);
        self.set_role_policy(name, policy);
        tag(&answer, "Arn")
    }

    pub fn set_role_policy(&self, name: &str, policy: &str) {
        let (name, policy) = (format!("RoleName={name}"), format!("PolicyDocument={policy}"));
        self.iam(&["Action=PutRolePolicy", "PolicyName=only", &name, &policy]);
    }

    pub fn set_trust(&self, role: &str, trust: &str) {
        let (role, trust) = (format!("RoleName={role}"), format!("PolicyDocument={trust}"));
        self.iam(&["Action=UpdateAssumeRolePolicy", &role, &trust]);
    }

    /// A key of KMS with this policy. Returns its ARN.
    pub fn make_key(&self, policy: &str) -> String {
        let answer = kms(self.service, &self.root(), "CreateKey", &serde_json::json!({ "Policy": policy })).unwrap();
        answer["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    fn iam(&self, words: &[&str]) -> String {
        let words = words.iter().chain(&["Version=2010-05-08"]);
        let args: Vec<&str> = words.flat_map(|word| ["--data-urlencode", word]).collect();
        self.service.request(&self.root(), "iam", "", &args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }
}

/// A request to KMS.
pub fn kms(
    service: &Ministack,
    keys: &Keys,
    operation: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    let (target, body) = (format!("X-Amz-Target: TrentService.{operation}"), body.to_string());
    let answer = service.request(keys, "kms", "", &["-H", &target, "-H", JSON, "--data-binary", &body])?;
    Ok(serde_json::from_str(&answer).unwrap())
}

fn keys_in(answer: &str) -> Keys {
    Keys { id: tag(answer, "AccessKeyId"), secret: tag(answer, "SecretAccessKey"), token: None }
}

/// The content of the first element of this name.
fn tag(answer: &str, name: &str) -> String {
    let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {answer}"));
    rest.split_once('<').unwrap().0.to_owned()
}
