//! A connection that speaks PostgreSQL's protocol message by message (PostgreSQL documentation, "Frontend/Backend
//! Protocol"), for what tokio-postgres does not know: replication.
//!
//! Owns the socket, TLS on it, and the start of the session with its authentication. The forms of the messages and the
//! cryptography are postgres-protocol's. Never sends a command.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{
    AuthenticationSaslBody, DataRowBody, ErrorFields, Header, Message, NoticeResponseBody,
};
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslMode as Encryption;
use tokio_rustls::TlsConnector;

use super::connect::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};
use super::failure::{Failure, Refusal};
use super::parameters::{Host, Parameters, Target};

/// What is read at once, at least.
const READ: usize = 128 << 10;

/// No message is longer: a walsender sends 32 kB of a file at a time, or what its compression makes of some of them
/// (`SINK_BUFFER_LENGTH` in src/backend/backup/basebackup.c).
const LONGEST_MESSAGE: i32 = 16 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The columns of a row, as text.
pub(super) type Columns = Vec<Option<String>>;

/// An open connection.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// See [`super::tls::end_point`]; `None` without TLS.
    end_point: Option<Vec<u8>>,
}

impl Wire {
    /// Connects to this target, with TLS as `encryption` says.
    pub(super) async fn open(
        target: &Target,
        encryption: Encryption,
        tls: Option<ClientConfig>,
    ) -> Result<Wire, Failure> {
        let stream: Box<dyn Stream> = match &target.host {
            Host::Socket(directory) => {
                Box::new(UnixStream::connect(directory.join(format!(".s.PGSQL.{}", target.port))).await?)
            }
            Host::Tcp(name) => {
                let stream = TcpStream::connect((name.as_str(), target.port)).await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
                Box::new(stream)
            }
        };
        let plain = Wire { stream, incoming: BytesMut::new(), outgoing: BytesMut::new(), end_point: None };
        match (tls, &target.host) {
            (Some(config), Host::Tcp(name)) => plain.encrypt(config, name, encryption).await,
            _ => Ok(plain),
        }
    }

    /// Asks for TLS. The answer is one byte, and must not be followed by anything that came before the TLS: that would be
    /// a man in the middle's (CVE-2021-23222).
    async fn encrypt(mut self, config: ClientConfig, name: &str, encryption: Encryption) -> Result<Wire, Failure> {
        frontend::ssl_request(&mut self.outgoing);
        self.flush().await?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer).await?;
        if answer[0] != b'S' {
            return if encryption == Encryption::Prefer { Ok(self) } else { Err(Failure::NoTls) };
        }
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let end_point = certificate.and_then(super::tls::end_point);
        Ok(Wire { stream: Box::new(stream), end_point, ..self })
    }

    /// Begins the session with these parameters, and proves who we are.
    pub(super) async fn start(
        &mut self,
        parameters: &Parameters,
        password: Option<String>,
        more: &[(&str, &str)],
    ) -> Result<(), Failure> {
        let own = [
            ("user", parameters.user.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", parameters.application_name.as_str()),
        ];
        let options = parameters.options.as_deref().map(|options| ("options", options));
        let all = own.into_iter().chain(options).chain(more.iter().copied());
        frontend::startup_message(all, &mut self.outgoing)?;
        self.flush().await?;
        let password = || password.as_deref().ok_or(Failure::Authentication("the server asks for a password"));
        loop {
            match self.next().await? {
                Message::AuthenticationOk | Message::BackendKeyData(_) => {}
                Message::AuthenticationCleartextPassword => self.send_password(password()?.as_bytes()).await?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(parameters.user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.send_password(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => self.authenticate(&body, password()?).await?,
                Message::ReadyForQuery(_) => return Ok(()),
                _ => {
                    return Err(Failure::Authentication("the server asks for a way to authenticate that is not known"));
                }
            }
        }
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<(), Failure> {
        frontend::password_message(password, &mut self.outgoing)?;
        self.flush().await
    }

    /// SCRAM (RFC 5802), bound to the TLS connection where the server can do so.
    async fn authenticate(&mut self, offered: &AuthenticationSaslBody, password: &str) -> Result<(), Failure> {
        let mechanisms: Vec<&str> = offered.mechanisms().collect()?;
        let (mechanism, binding) = match self.end_point.take() {
            Some(end_point) if mechanisms.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point))
            }
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !mechanisms.contains(&mechanism) {
            return Err(Failure::Authentication("the server offers no SCRAM-SHA-256"));
        }
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outgoing)?;
        self.flush().await?;
        let unexpected = || Failure::Authentication("the server breaks off SCRAM-SHA-256");
        let Message::AuthenticationSaslContinue(body) = self.next().await? else { return Err(unexpected()) };
        scram.update(body.data())?;
        frontend::sasl_response(scram.message(), &mut self.outgoing)?;
        self.flush().await?;
        let Message::AuthenticationSaslFinal(body) = self.next().await? else { return Err(unexpected()) };
        scram.finish(body.data()).map_err(|_| Failure::Authentication("the server does not know the password itself"))
    }

    /// Sends a command; the answer is read with [`Wire::next`].
    pub(super) async fn send(&mut self, command: &str) -> Result<(), Failure> {
        frontend::query(command, &mut self.outgoing)?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(self.stream.flush().await?)
    }

    /// The next message that belongs to an answer. A refusal is an error; what the server tells by the way is logged.
    pub(super) async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            match self.receive().await? {
                Message::ErrorResponse(body) => return Err(Failure::Refused(refusal(body.fields())?)),
                Message::NoticeResponse(body) => notice(&body)?,
                Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }

    async fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            if Header::parse(&self.incoming)?.is_some_and(|header| header.len() > LONGEST_MESSAGE) {
                return Err(io::Error::other("it sent a message that is too long").into());
            }
            if let Some(message) = Message::parse(&mut self.incoming)? {
                return Ok(message);
            }
            self.incoming.reserve(READ);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// What a row says.
pub(super) fn columns(row: &DataRowBody) -> Result<Columns, Failure> {
    let text = |range: std::ops::Range<usize>| {
        let bytes = row.buffer().get(range).unwrap_or_default();
        String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::other("it sent a value that is not UTF-8"))
    };
    Ok(row.ranges().map(|range| range.map(text).transpose()).collect()?)
}

fn refusal(mut fields: ErrorFields<'_>) -> Result<Refusal, Failure> {
    let mut refusal = Refusal::default();
    while let Some(field) = fields.next()? {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'S' => refusal.severity = value,
            b'C' => refusal.code = value,
            b'M' => refusal.message = value,
            b'D' => refusal.detail = Some(value),
            b'H' => refusal.hint = Some(value),
            _ => {}
        }
    }
    Ok(refusal)
}

fn notice(body: &NoticeResponseBody) -> Result<(), Failure> {
    tracing::info!("the server says: {}", refusal(body.fields())?);
    Ok(())
}
