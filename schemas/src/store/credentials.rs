//! Finding out early that there are no credentials for an object store.
//!
//! Where the environment has none, the client asks the service that gives a machine in the cloud its
//! credentials. Elsewhere nobody answers, and every request would wait for it.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Time for that service's answer.
const METADATA_TIME: Duration = Duration::from_secs(1);

/// Where a store's credentials may come from.
pub(super) struct Credentials {
    /// Variables of which one at least is set where they come from the environment.
    variables: &'static [&'static str],
    /// A file with them, below the user's home folder.
    file: Option<&'static str>,
    /// The variable with the URL of the machine's service.
    metadata_variable: Option<&'static str>,
    /// The service's usual host.
    metadata_host: &'static str,
    /// What to do where there are none.
    advice: &'static str,
}

/// Amazon S3, and stores that speak like it.
pub(super) const AMAZON: Credentials = Credentials {
    variables: &[
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ],
    file: None,
    metadata_variable: Some("AWS_METADATA_ENDPOINT"),
    metadata_host: "169.254.169.254",
    advice: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for a profile with: eval \"$(aws \
             configure export-credentials --format env)\"",
};

/// Google Cloud Storage.
pub(super) const GOOGLE: Credentials = Credentials {
    variables: &[
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_BEARER_TOKEN",
        "GOOGLE_SKIP_SIGNATURE",
        "SERVICE_ACCOUNT",
    ],
    file: Some(".config/gcloud/application_default_credentials.json"),
    metadata_variable: None,
    metadata_host: "metadata.google.internal",
    advice: "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
};

/// Azure Blob Storage.
pub(super) const AZURE: Credentials = Credentials {
    variables: &[
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_MASTER_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_SECRET",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_USE_AZURE_CLI",
        "AZURE_CREDENTIAL_TYPE",
        "AZURE_MSI_ENDPOINT",
        "IDENTITY_ENDPOINT",
        "AZURE_STORAGE_USE_EMULATOR",
        "AZURE_SKIP_SIGNATURE",
    ],
    file: None,
    metadata_variable: None,
    metadata_host: "169.254.169.254",
    advice: "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or \
             AZURE_STORAGE_SAS_TOKEN",
};

impl Credentials {
    /// Checks that there may be some.
    ///
    /// # Errors
    /// With the advice, where there are none.
    pub fn check(&self) -> io::Result<()> {
        let in_home = |file: &str| env::home_dir().is_some_and(|home| home.join(file).exists());
        let is_set = |name: &&str| env::var_os(name).is_some();
        if self.variables.iter().any(is_set) || self.file.is_some_and(in_home) {
            return Ok(());
        }
        let given = self.metadata_variable.and_then(|name| env::var(name).ok());
        let host = given.as_deref().map(|url| url.trim_start_matches("http://"));
        let host = host.unwrap_or(self.metadata_host).trim_end_matches('/');
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let mut addresses = address.to_socket_addrs().into_iter().flatten();
        if addresses.any(|address| speaks_http(address).unwrap_or(false)) {
            return Ok(());
        }
        let reason = format!("no credentials; {}", self.advice);
        Err(io::Error::new(ErrorKind::PermissionDenied, reason))
    }
}

/// Whether somebody answers in HTTP.
fn speaks_http(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, METADATA_TIME)?;
    stream.set_read_timeout(Some(METADATA_TIME))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/")
}
