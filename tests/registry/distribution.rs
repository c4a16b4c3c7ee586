//! Against a real registry: Debian's package `docker-registry`. Skipped, with the reason
//! printed, where the program is not installed.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild::image::manifest::{Descriptor, media_type};
use rbuild::reference::Reference;
use rbuild::registry::{
    BlobSource, Client, ClientOptions, Credentials, ErrorKind, Pushed, WriteSink,
};
use tempfile::TempDir;

use super::images::{digest, image, index, noise};

#[expect(clippy::print_stdout, reason = "says why a test did not run")]
fn skipped(reason: &str) {
    println!("skipped: {reason}");
}

struct Registry {
    process: Child,
    folder: TempDir,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// `None`, with the reason printed, where there is no such program.
    fn start(extra_configuration: impl Fn(&Path) -> String) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let probe = Command::new("docker-registry").arg("--version").output();
        if let Err(error) = probe {
            skipped(&format!("cannot run docker-registry: {error}"));
            return None;
        }
        // The port is free when it is asked for; another process may take it before the
        // registry does, so the start is tried more than once.
        for _ in 0..5 {
            let port = {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listener.local_addr().unwrap().port()
            };
            let address = format!("127.0.0.1:{port}");
            let storage = folder.path().join("storage");
            let path = folder.path().join("config.yml");
            let configuration = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{}",
                storage.display(),
                extra_configuration(folder.path()),
            );
            fs::write(&path, configuration).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && process.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect(&address).is_ok() {
                    return Some(Self {
                        process,
                        folder,
                        address,
                    });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("docker-registry did not start");
    }

    /// With a self-signed certificate, `cert.pem` in its folder, made by openssl.
    fn start_with_tls() -> Option<Self> {
        let openssl = |folder: &Path| {
            let output = Command::new("openssl")
                .args([
                    "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                ])
                .args([
                    "-subj",
                    "/CN=localhost",
                    "-addext",
                    "subjectAltName=IP:0.0.0.0",
                ])
                .args(["-keyout", "key.pem", "-out", "cert.pem"])
                .current_dir(folder)
                .output();
            output.is_ok_and(|output| output.status.success())
        };
        if !openssl(tempfile::tempdir().unwrap().path()) {
            skipped("cannot make a certificate with openssl");
            return None;
        }
        Self::start(|folder| {
            assert!(openssl(folder));
            let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
            let (certificate, key) = (certificate.display(), key.display());
            format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")
        })
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

fn client() -> Client {
    Client::new(ClientOptions::default())
}

#[tokio::test]
async fn an_image_goes_there_and_comes_back() {
    let Some(registry) = Registry::start(|_| String::new()) else {
        return;
    };
    let client = client();
    let reference = registry.reference("team/app:1");
    let (amd, arm) = (
        image("linux/amd64", &noise(200_000)),
        image("linux/arm64", b"arm"),
    );
    for image in [&amd, &arm] {
        for (descriptor, bytes) in [
            (&image.layer_descriptor, &image.layer),
            (&image.config_descriptor, &image.config),
        ] {
            let source = BlobSource::bytes(bytes.clone());
            let mut outcomes = Vec::new();
            for _ in 0..2 {
                let pushed = client
                    .push_blob(&reference, descriptor, &source, None, None)
                    .await;
                outcomes.push(pushed.unwrap());
            }
            assert_eq!(outcomes, [Pushed::Uploaded, Pushed::Existing]);
        }
        let untagged = registry.reference("team/app");
        client
            .push_manifest(&untagged, media_type::OCI_MANIFEST, image.manifest.clone())
            .await
            .unwrap();
    }
    let list = index(&[&amd, &arm]);
    client
        .push_manifest(&reference, media_type::OCI_INDEX, list.clone())
        .await
        .unwrap();

    let resolved = client.resolve(&reference).await.unwrap();
    assert_eq!(resolved, Descriptor::of(media_type::OCI_INDEX, &list));
    let found = client
        .image(&reference, &"linux/amd64".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(found.manifest.bytes(), amd.manifest);
    assert_eq!(found.config.bytes(), amd.config);
    let mut layer = WriteSink(Vec::new());
    client
        .blob(&reference, &found.layers[0], &mut layer, None)
        .await
        .unwrap();
    assert_eq!(layer.0, amd.layer);

    let missing = client
        .resolve(&registry.reference("team/app:2"))
        .await
        .unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let referrers = client
        .referrers(&reference, &resolved.digest)
        .await
        .unwrap();
    assert_eq!(referrers, []);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let Some(registry) = Registry::start(|_| String::new()) else {
        return;
    };
    let client = client();
    let (base, app) = (registry.reference("base"), registry.reference("team/app"));
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"layer");
    let source = BlobSource::bytes("layer");
    client
        .push_blob(&base, &descriptor, &source, None, None)
        .await
        .unwrap();
    let mounted = client
        .push_blob(&app, &descriptor, &source, Some(&base), None)
        .await;
    assert_eq!(mounted.unwrap(), Pushed::Mounted);

    let other = Descriptor::of(media_type::OCI_LAYER, b"other");
    let source = BlobSource::bytes("other");
    let uploaded = client
        .push_blob(&app, &other, &source, Some(&base), None)
        .await;
    assert_eq!(
        uploaded.unwrap(),
        Pushed::Uploaded,
        "the base has no such blob"
    );
}

/// Pushes a blob, and pulls it.
async fn there_and_back(
    client: &Client,
    reference: &Reference,
    source: &BlobSource,
    content: &[u8],
) {
    let descriptor = Descriptor::of(media_type::OCI_LAYER, content);
    let pushed = client.push_blob(reference, &descriptor, source, None, None);
    assert_eq!(pushed.await.unwrap(), Pushed::Uploaded);
    let mut back = WriteSink(Vec::new());
    let pulled = client.blob(reference, &descriptor, &mut back, None);
    pulled.await.unwrap();
    assert!(back.0 == content);
}

#[tokio::test]
async fn large_and_streamed_blobs_are_patched() {
    let Some(registry) = Registry::start(|_| String::new()) else {
        return;
    };
    let client = client();
    let reference = registry.reference("app");
    let content = noise(65 << 20);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let source = BlobSource::file(file);
    there_and_back(&client, &reference, &source, &content).await;

    let streamed = noise(1 << 20);
    let copy = streamed.clone();
    let source = BlobSource::reader(move || Ok(std::io::Cursor::new(copy.clone())));
    let (found, size) = client.push_stream(&reference, &source, None).await.unwrap();
    assert_eq!((found, size), (digest(&streamed), 1 << 20));
    assert!(client.has_blob(&reference, &found).await.unwrap());
}

#[tokio::test]
async fn a_password_opens_what_is_closed_without() {
    // bcrypt of `correct-horse`.
    const USERS: &str = "me:$2y$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n";
    let Some(registry) = Registry::start(|folder| {
        let path = folder.join("htpasswd");
        fs::write(&path, USERS).unwrap();
        format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path.display()
        )
    }) else {
        return;
    };
    let reference = registry.reference("private/app");
    let descriptor = Descriptor::of(media_type::OCI_LAYER, b"layer");
    let source = BlobSource::bytes("layer");
    let with_password = |password: &str| {
        let path = registry.folder.path().join("config.json");
        let entry = format!(r#"{{"username":"me","password":"{password}"}}"#);
        let content = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, registry.address);
        fs::write(&path, content).unwrap();
        Client::new(ClientOptions {
            credentials: Credentials::from_files(vec![path]),
            ..ClientOptions::default()
        })
    };
    let error = client()
        .push_blob(&reference, &descriptor, &source, None, None)
        .await
        .unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(error.to_string().contains("(none were found)"), "{error}");

    let wrong = with_password("wrong");
    let error = wrong
        .push_blob(&reference, &descriptor, &source, None, None)
        .await
        .unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(error.to_string().contains("were refused"), "{error}");

    let right = with_password("correct-horse");
    let pushed = right
        .push_blob(&reference, &descriptor, &source, None, None)
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}

#[tokio::test]
async fn https_is_spoken_where_it_is_offered() {
    let Some(registry) = Registry::start(|folder| {
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ])
            .current_dir(folder)
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
                let (certificate, key) = (certificate.display(), key.display());
                format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")
            }
            _ => {
                println!("skipped: cannot run openssl");
                String::new()
            }
        }
    }) else {
        return;
    };
    let client = client();
    let reference = registry.reference("app");
    // HTTP/2, with a body larger than its windows.
    let content = noise(20 << 20);
    let source = BlobSource::bytes(content.clone());
    there_and_back(&client, &reference, &source, &content).await;
}

/// The same registry by a name that is not loopback to the client, and still this machine.
fn as_stranger(registry: &Registry) -> Option<Reference> {
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        if std::env::var_os(name).is_some() {
            skipped("a proxy is set, which can't reach this machine by another name");
            return None;
        }
    }
    let address = registry.address.replace("127.0.0.1", "0.0.0.0");
    Some(format!("{address}/app").parse().unwrap())
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused_until_it_is_trusted_or_the_host_insecure() {
    let Some(registry) = Registry::start_with_tls() else {
        return;
    };
    let Some(reference) = as_stranger(&registry) else {
        return;
    };
    let error = client().resolve(&reference).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls { .. }), "{error}");
    assert!(!error.is_unreachable());
    assert!(
        error.to_string().contains("issuer is not trusted"),
        "{error}"
    );

    let folder = registry.folder.path();
    let for_host = folder.join("certs.d").join(reference.domain());
    fs::create_dir_all(&for_host).unwrap();
    fs::copy(folder.join("cert.pem"), for_host.join("ca.crt")).unwrap();
    let by_folder = ClientOptions {
        certificate_folders: vec![folder.join("certs.d")],
        ..ClientOptions::default()
    };
    let by_file = ClientOptions {
        extra_roots: vec![folder.join("cert.pem")],
        ..ClientOptions::default()
    };
    let insecure = ClientOptions {
        insecure: vec![reference.domain().to_owned()],
        ..ClientOptions::default()
    };
    for options in [by_folder, by_file, insecure] {
        let error = Client::new(options).resolve(&reference).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }
}

#[tokio::test]
async fn plain_http_beyond_loopback_needs_the_hosts_leave() {
    let Some(registry) = Registry::start(|_| String::new()) else {
        return;
    };
    let Some(reference) = as_stranger(&registry) else {
        return;
    };
    let error = client().resolve(&reference).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls { .. }), "{error}");
    assert!(
        error.to_string().contains("list the host as insecure"),
        "{error}"
    );

    let client = Client::new(ClientOptions {
        insecure: vec![reference.domain().to_owned()],
        ..ClientOptions::default()
    });
    let error = client.resolve(&reference).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}
