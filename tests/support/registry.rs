//! Debian's `docker-registry`, each with a storage folder of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::needs::{Need, base_images, program};
use super::process::{Finished, run_with_timeout};

/// A registry on a free port of the loopback interface; it ends when dropped.
pub(crate) struct Registry {
    child: Child,
    port: u16,
    storage: Option<tempfile::TempDir>,
}

impl Registry {
    /// An empty one that takes pushes.
    pub(crate) fn start() -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        std::fs::create_dir(&storage).unwrap();
        let mut registry = Registry::serve(&storage, false, None);
        registry.storage = Some(folder);
        registry
    }

    /// An empty one that wants a user name and a password for everything. `htpasswd` lists them:
    /// name, colon, bcrypt hash.
    pub(crate) fn with_users(htpasswd: &str) -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let (storage, users) = (
            folder.path().join("storage"),
            folder.path().join("htpasswd"),
        );
        std::fs::create_dir(&storage).unwrap();
        std::fs::write(&users, htpasswd).unwrap();
        let mut registry = Registry::serve(&storage, false, Some(&users));
        registry.storage = Some(folder);
        registry
    }

    fn serve(storage: &Path, read_only: bool, users: Option<&Path>) -> Registry {
        // It reads its settings once, so they can go when it listens.
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("registry.yml");
        let auth = users.map_or_else(String::new, |users| {
            format!("auth: {{htpasswd: {{realm: tests, path: {users:?}}}}}\n")
        });
        let text = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage:?}}}, delete: {{enabled: true}}, \
             maintenance: {{readonly: {{enabled: {read_only}}}}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: tests}}\n{auth}"
        );
        std::fs::write(&settings, text).unwrap();
        // The kernel ends it with the thread that started it, should this process be killed.
        let mut child = Command::new(program("setpriv").expect("`setpriv` is not installed"))
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program("docker-registry").expect("`docker-registry` is not installed"))
            .arg("serve")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let port = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "docker-registry did not start:\n{said}"
            );
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits.parse().unwrap();
            }
            said += &line;
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry {
            child,
            port,
            storage: None,
        }
    }

    /// `127.0.0.1:PORT`, as image names write it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A name in this registry.
    pub(crate) fn name(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.address())
    }

    /// The manifest that a tag or digest names, by `curl`.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Value {
        let finished = self.curl(&["-H", ACCEPT], repository, reference).ok();
        serde_json::from_str(&finished.text()).unwrap()
    }

    /// Puts a manifest into the registry as it is, by `curl`.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, manifest: &Value) {
        let kind = manifest["mediaType"].as_str().unwrap();
        let (header, body) = (format!("Content-Type: {kind}"), manifest.to_string());
        let args = ["-X", "PUT", "-H", &header, "--data-binary", &body];
        self.curl(&args, repository, tag).ok();
    }

    fn curl(&self, args: &[&str], repository: &str, reference: &str) -> Finished {
        let address = self.address();
        let mut command = Command::new("curl");
        command
            .args(["-fsS", "--noproxy", "*"])
            .args(args)
            .arg(format!(
                "http://{address}/v2/{repository}/manifests/{reference}"
            ));
        run_with_timeout(command, None)
    }
}

const ACCEPT: &str = "Accept: application/vnd.oci.image.index.v1+json, \
                      application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of the read-only registry that serves the base images as docker.io's mirror, one
/// for the whole run; `None` where there are none.
pub(crate) fn base_image_mirror() -> Option<&'static str> {
    static MIRROR: OnceLock<Option<String>> = OnceLock::new();
    MIRROR
        .get_or_init(|| {
            if !Need::BaseImages.available() {
                return None;
            }
            let (send, receive) = std::sync::mpsc::channel();
            // A thread of its own that never ends: the registry must outlive the test that
            // happened to ask first.
            std::thread::spawn(move || {
                let storage = base_images().join("registry");
                let registry = Registry::serve(&storage, true, None);
                send.send(format!("http://{}", registry.address())).unwrap();
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            });
            receive.recv().ok()
        })
        .as_deref()
}
