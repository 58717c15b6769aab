//! Objects of S3, Google Cloud Storage, Azure Blob Storage, and whatever speaks like them.
//!
//! The crate `object_store` sends the requests, and repeats those that fail for a passing reason. Its
//! futures run on the calling thread; a runtime of two threads waits for sockets and timers.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart,
};
use tokio::runtime::{Builder, Runtime};

use super::{Entry, credentials};

/// Bytes of a part of an upload; smaller objects are put at once.
const PART_BYTES: usize = 8 << 20;
/// Parts of an upload, and ranges of an object, on the way at a time.
const REQUESTS: usize = 8;
/// Repetitions of a request that fails for a passing reason. They wait 0.1 s, 0.2 s, 0.4 s and so
/// on.
const RETRIES: usize = 8;
/// Time after which a request is not repeated any more.
const RETRY_TIME: Duration = Duration::from_secs(60);
/// Lists and removals without a whole answer, and the pause after the first, which doubles.
const REPEATS: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// An object or a folder of an object store. It need not exist.
#[derive(Clone, Debug)]
pub struct Object {
    store: Arc<dyn ObjectStore>,
    key: Key,
}

/// The parts of a URL.
struct Parts<'a> {
    scheme: &'a str,
    bucket: &'a str,
    key: String,
}

impl<'a> Parts<'a> {
    fn of(url: &'a Path) -> Option<Self> {
        let (scheme, rest) = url.to_str()?.split_once("://")?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let names: Vec<&str> = key.split('/').filter(|name| !name.is_empty()).collect();
        (!bucket.is_empty()).then(|| Self { scheme, bucket, key: names.join("/") })
    }
}

impl Object {
    /// The object with this URL.
    ///
    /// # Errors
    /// Without a bucket or credentials.
    pub fn at(url: &Path) -> io::Result<Self> {
        let invalid = |reason: String| io::Error::new(ErrorKind::InvalidInput, reason);
        let Parts { scheme, bucket, key } = Parts::of(url)
            .ok_or_else(|| invalid("names no bucket; write s3://BUCKET/FOLDER/".to_owned()))?;
        let key = Key::parse(key).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { store: store(scheme, bucket)?, key })
    }

    /// Its content.
    pub fn read(&self) -> io::Result<Bytes> {
        wait(async { self.store.get(&self.key).await?.bytes().await })
    }

    /// Its first `limit` bytes, or all of them where it has fewer.
    pub fn read_first(&self, limit: u64) -> io::Result<Bytes> {
        let begin = GetOptions { range: Some(GetRange::Bounded(0..limit)), ..Default::default() };
        let read = wait(async { self.store.get_opts(&self.key, begin).await?.bytes().await });
        match read {
            // An empty object has no first byte, which each store says in its own way.
            Err(_) if self.size().is_ok_and(|bytes| bytes == 0) => Ok(Bytes::new()),
            read => read,
        }
    }

    /// These bytes of it.
    pub fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        wait(self.store.get_range(&self.key, range))
    }

    /// These bytes of it, several ranges at a time.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        let requests = ranges.iter().cloned().map(|range| self.store.get_range(&self.key, range));
        wait(stream::iter(requests).buffered(REQUESTS).try_collect())
    }

    /// Its size in bytes.
    pub fn size(&self) -> io::Result<u64> {
        match wait(self.store.head(&self.key)) {
            Ok(found) => Ok(found.size),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => {
                Err(error)
            }
            // The answer had no body; that to another request has one with the cause.
            Err(error) => Err(wait(self.store.get_range(&self.key, 0..1)).err().unwrap_or(error)),
        }
    }

    /// Whether there is an object below it.
    pub fn has_any_below(&self) -> io::Result<bool> {
        again(|| async {
            let first = self.store.list(Some(&self.key)).next().await.transpose()?;
            Ok(first.is_some())
        })
    }

    /// The objects and folders in it.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let found = again(|| self.store.list_with_delimiter(Some(&self.key)))?;
        let name = |key: &Key| key.filename().unwrap_or_default().to_owned();
        let folders = found.common_prefixes.iter();
        let folders = folders.map(|key| Entry { name: name(key), is_folder: true, bytes: 0 });
        // Some programs mark a folder by an object of the same name.
        let objects = found.objects.iter().filter(|object| object.location != self.key);
        let objects = objects.map(|object| {
            let name = name(&object.location);
            Entry { name, is_folder: false, bytes: object.size }
        });
        Ok(folders.chain(objects).collect())
    }

    /// Removes it.
    pub fn remove(&self) -> io::Result<()> {
        again(|| self.store.delete(&self.key))
    }

    /// Removes all objects below it.
    pub fn remove_all_below(&self) -> io::Result<()> {
        again(|| {
            let keys = self.store.list(Some(&self.key)).map_ok(|object| object.location).boxed();
            self.store.delete_stream(keys).try_for_each(|_| async { Ok(()) })
        })
    }
}

/// An object being written; it appears when [`Upload::finish`] returns.
#[derive(Debug)]
pub struct Upload {
    object: Object,
    /// What has not been sent yet: less than a part.
    pending: Vec<u8>,
    /// The parts sent.
    parts: Option<WriteMultipart>,
}

impl Upload {
    /// Begins the object with this URL.
    pub fn to(url: &Path) -> io::Result<Self> {
        Ok(Self { object: Object::at(url)?, pending: Vec::new(), parts: None })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < PART_BYTES {
            return Ok(());
        }
        let Object { store, key } = &self.object;
        wait(async {
            let mut parts = match self.parts.take() {
                Some(parts) => parts,
                None => {
                    let upload = store.put_multipart(key).await?;
                    WriteMultipart::new_with_chunk_size(upload, PART_BYTES)
                }
            };
            let waited = parts.wait_for_capacity(REQUESTS).await;
            parts.write(&std::mem::take(&mut self.pending));
            self.parts = Some(parts);
            waited
        })
    }

    pub fn finish(mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let Object { store, key } = &self.object;
        match self.parts.take() {
            None => wait(store.put(key, pending.into())).map(drop),
            Some(mut parts) => wait(async {
                parts.write(&pending);
                parts.finish().await.map(drop)
            }),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // Where that fails as well, the bucket's rule for unfinished uploads removes the parts.
            let _ = wait(parts.abort());
        }
    }
}

/// Runs a request to its end.
fn wait<T>(request: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_io()
            .enable_time()
            .build()
    });
    match runtime {
        Ok(runtime) => runtime.block_on(request).map_err(|error| explain(&error)),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// Runs a list or a removal, which the crate does not repeat where the answer breaks off or is
/// lost.
fn again<T, F>(request: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..REPEATS {
        match wait(request()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => thread::sleep(pause),
            done => return done,
        }
        pause *= 2;
    }
    wait(request())
}

/// The client of a bucket; there is one in a process.
fn store(scheme: &str, bucket: &str) -> io::Result<Arc<dyn ObjectStore>> {
    static STORES: Mutex<Option<HashMap<String, Arc<dyn ObjectStore>>>> = Mutex::new(None);
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let stores = stores.get_or_insert_default();
    let name = format!("{scheme}://{bucket}");
    if let Some(store) = stores.get(&name) {
        return Ok(store.clone());
    }
    // Nobody else in this process chooses another implementation.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = connect(scheme, &name)?;
    stores.insert(name, store.clone());
    Ok(store)
}

/// Makes a client from the environment.
fn connect(scheme: &str, url: &str) -> io::Result<Arc<dyn ObjectStore>> {
    let retry =
        RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIME, ..RetryConfig::default() };
    let store: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
        "s3" => {
            credentials::AMAZON.check()?;
            // Whoever names an endpoint without TLS wants it.
            let is_plain = |name| std::env::var(name).is_ok_and(|url| url.starts_with("http://"));
            let plain = is_plain("AWS_ENDPOINT_URL") || is_plain("AWS_ENDPOINT_URL_S3");
            let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
            let builder = if plain { builder.with_allow_http(true) } else { builder };
            builder.build().map(|store| Arc::new(store) as _)
        }
        "gs" => {
            credentials::GOOGLE.check()?;
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry);
            builder.build().map(|store| Arc::new(store) as _)
        }
        _ => {
            credentials::AZURE.check()?;
            let builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry);
            builder.build().map(|store| Arc::new(store) as _)
        }
    };
    store.map_err(|error| explain(&error))
}

/// An error in a line, without the URL of the request and the XML of the answer.
fn explain(error: &object_store::Error) -> io::Error {
    let kind = match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        object_store::Error::Generic { .. } => ErrorKind::Interrupted,
        _ => ErrorKind::Other,
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    // After an answer, and not because it broke off.
    let is_answer = text.starts_with(ANSWER);
    let kind = if kind == ErrorKind::Interrupted && is_answer { ErrorKind::Other } else { kind };
    io::Error::new(kind, summary(&text))
}

/// How the crate begins the text of an answer that is an error.
const ANSWER: &str = "Server returned non-2xx status code: ";

/// What a server answered, such as `403 Forbidden: AccessDenied: Access Denied`.
fn summary(text: &str) -> String {
    let text = text.trim_start_matches(ANSWER);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(content, _)| content.trim())
    };
    let status = text.split_once(": ").map_or(text, |(status, _)| status);
    let parts = match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{status}: {code}: {message}"),
        (Some(code), None) => format!("{status}: {code}"),
        _ => text.trim_end_matches([':', ' ']).to_owned(),
    };
    parts.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn object(store: &Arc<InMemory>, key: &str) -> Object {
        Object { store: store.clone(), key: Key::parse(key).unwrap() }
    }

    #[test]
    fn an_upload_appears_when_it_is_finished() {
        let store = Arc::new(InMemory::new());
        let written: Vec<u8> = (0..2 * PART_BYTES + 5).map(|i| (i % 251) as u8).collect();
        for (key, length) in [("a/none", 0), ("a/short", 9), ("a/b/long", written.len())] {
            let object = object(&store, key);
            let mut upload = Upload { object: object.clone(), pending: Vec::new(), parts: None };
            for bytes in written[..length].chunks(PART_BYTES / 3) {
                upload.write(bytes).unwrap();
            }
            assert_eq!(object.read().unwrap_err().kind(), ErrorKind::NotFound);
            upload.finish().unwrap();
            assert_eq!(object.read().unwrap(), written[..length]);
            assert_eq!(object.read_first(4).unwrap(), written[..length.min(4)]);
            assert_eq!(object.size().unwrap(), length as u64);
        }
        let entry = |name: &str, is_folder, bytes| Entry { name: name.into(), is_folder, bytes };
        let mut found = object(&store, "a").list().unwrap();
        found.sort_unstable();
        let expected = [entry("b", true, 0), entry("none", false, 0), entry("short", false, 9)];
        assert_eq!(found, expected);
        assert!(object(&store, "a/b").has_any_below().unwrap());
        object(&store, "a/short").remove().unwrap();
        object(&store, "a").remove_all_below().unwrap();
        assert!(!object(&store, "a").has_any_below().unwrap());
    }

    #[test]
    fn a_url_is_bucket_and_key() {
        let parts = |url: &str| {
            let parts = Parts::of(Path::new(url))?;
            Some(format!("{} {} {}", parts.scheme, parts.bucket, parts.key))
        };
        assert_eq!(parts("s3://b/a//c.jpg").as_deref(), Some("s3 b a/c.jpg"));
        assert_eq!(parts("gs://b/a b/").as_deref(), Some("gs b a b"));
        assert_eq!(parts("az://b").as_deref(), Some("az b "));
        assert_eq!(parts("s3:///a"), None);
    }

    #[test]
    fn an_answer_becomes_a_line() {
        let xml = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n\
                   <Error><Code>AccessDenied</Code>\n<Message>Access\nDenied</Message></Error>";
        assert_eq!(summary(xml), "403 Forbidden: AccessDenied: Access Denied");
        let short = "Server returned non-2xx status code: 503 Service Unavailable: ";
        assert_eq!(summary(short), "503 Service Unavailable");
        assert_eq!(summary("connection\nrefused"), "connection refused");
    }
}
