//! What tells a program on AWS who it is: the metadata service of an instance (IMDSv2) and the endpoint of a container.
//!
//! Both hand out the lasting keys of the tests' S3 as a session, to whoever shows the token that belongs to them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::s3::{ACCESS_KEY, SECRET_KEY};

const TOKEN: &str = "the-token";

/// A running service. Its thread ends with the test program.
pub struct Metadata {
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Metadata {
    pub fn start() -> Metadata {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let requests = log.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up has its reasons.
                let _ = serve(stream, &requests);
            }
        });
        Metadata { address, log }
    }

    /// The requests so far: method, path, and status of the answer.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// An instance with a role (Amazon EC2 User Guide, "Use the Instance Metadata Service").
    pub fn instance(&self) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{}", self.address);
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint), ("AWS_EC2_METADATA_DISABLED", "false".to_owned())]
    }

    /// A pod with an identity (AWS SDKs and Tools Reference Guide, "Container credential provider").
    pub fn pod(&self, directory: &Path) -> Vec<(&'static str, String)> {
        let file = directory.join("pod-token");
        std::fs::write(&file, TOKEN).unwrap();
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/pod", self.address)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.to_str().unwrap().to_owned()),
        ]
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let what = request.trim_end_matches(" HTTP/1.1");
    let (status, body) = answer(what, &headers);
    log.lock().unwrap().push(format!("{what} {status}"));
    write!(
        stream,
        "HTTP/1.1 {status} Told\r\ncontent-length: {}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

fn answer(what: &str, headers: &HashMap<String, String>) -> (u16, String) {
    let shown = |header: &str| headers.get(header).is_some_and(|token| token == TOKEN);
    match what {
        "PUT /latest/api/token" if headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds") => {
            (200, TOKEN.to_owned())
        }
        "GET /pod" if shown("authorization") => (200, session()),
        "GET /pod" => (401, String::new()),
        _ if !shown("x-aws-ec2-metadata-token") => (401, String::new()),
        "GET /latest/meta-data/iam/security-credentials/" => (200, "instance-role".to_owned()),
        "GET /latest/meta-data/iam/security-credentials/instance-role" => (200, session()),
        _ => (404, String::new()),
    }
}

fn session() -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(6);
    serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": jiff::Timestamp::now().to_string(),
        "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "a-session", "Expiration": end.to_string(),
    })
    .to_string()
}
