//! The image config: what a container of the image runs, and how the image came to be
//! (OCI image spec 1.1, `config.md`; Docker's extensions from `docker-image-spec` v1.3).
//!
//! The type is our own because the specification's leaves out what Docker added (`OnBuild`,
//! `Healthcheck`, `Shell`), and because a base image's unknown members must survive a build.
//! [`ImageConfig::to_bytes`] writes as BuildKit does: the top-level members sorted by name, those
//! of `config` and `history` in the specification's order, maps sorted, empty values left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::ImageError;
use super::json::{self, Object, names, null_as_default};
use crate::digest::{DiffId, Digest, ImageId};
use crate::platform::Platform;
use crate::time::Timestamp;

/// The largest config that is read, in bytes.
pub const CONFIG_LIMIT: u64 = 8 << 20;

/// The `PATH` of an image that starts from nothing.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// Who made it (`MAINTAINER`).
    #[serde(deserialize_with = "null_as_default")]
    pub author: String,
    /// Processor architecture, as in GOARCH.
    #[serde(deserialize_with = "null_as_default")]
    pub architecture: String,
    /// Operating system, as in GOOS.
    #[serde(deserialize_with = "null_as_default")]
    pub os: String,
    /// Variant of the architecture; empty where there is none.
    #[serde(deserialize_with = "null_as_default")]
    pub variant: String,
    /// Version of the operating system, for Windows images.
    #[serde(rename = "os.version", deserialize_with = "null_as_default")]
    pub os_version: String,
    /// Features that the operating system must have, for Windows images.
    #[serde(rename = "os.features", deserialize_with = "null_as_default")]
    pub os_features: Vec<String>,
    /// What a container of the image runs, and how.
    #[serde(deserialize_with = "null_as_default")]
    pub config: ExecutionConfig,
    /// The layers.
    #[serde(deserialize_with = "null_as_default")]
    pub rootfs: RootFs,
    /// How each layer came to be, lowest first, with the steps that made none.
    #[serde(deserialize_with = "null_as_default")]
    pub history: Vec<History>,
    /// Members that are not named here, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// The `config` member: parameters for running a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecutionConfig {
    /// `USER`: name or number, with `:group` where given.
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    /// `EXPOSE`: `port/protocol`.
    #[serde(deserialize_with = "names")]
    pub exposed_ports: BTreeSet<String>,
    /// `ENV`: `NAME=value`, in the order in which the names first came.
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// `VOLUME`: paths in the image.
    #[serde(deserialize_with = "names")]
    pub volumes: BTreeSet<String>,
    /// `WORKDIR`.
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(deserialize_with = "null_as_default")]
    pub stop_signal: String,
    /// Whether the first word of a Windows command is a whole command line.
    #[serde(deserialize_with = "null_as_default")]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(deserialize_with = "null_as_default")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`: instructions for the image that is built from this one.
    #[serde(deserialize_with = "null_as_default")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(deserialize_with = "null_as_default")]
    pub shell: Vec<String>,
    /// Members that are not named here, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// `HEALTHCHECK`. Durations are in nanoseconds; 0 means the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", argument…]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(deserialize_with = "null_as_default")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(deserialize_with = "null_as_default")]
    pub interval: i64,
    /// Time after which a check counts as failed.
    #[serde(deserialize_with = "null_as_default")]
    pub timeout: i64,
    /// Time during which failures don't count.
    #[serde(deserialize_with = "null_as_default")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(deserialize_with = "null_as_default")]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy; 0 means the runtime's default.
    #[serde(deserialize_with = "null_as_default")]
    pub retries: i64,
    /// Members that are not named here, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// The `rootfs` member: the layers, lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the layers' plain tar streams.
    #[serde(deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub kind: String,
    /// Members that are not named here, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// One step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct History {
    /// When the step was done.
    #[serde(deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// The instruction.
    #[serde(deserialize_with = "null_as_default")]
    pub created_by: String,
    /// Who did it.
    #[serde(deserialize_with = "null_as_default")]
    pub author: String,
    /// A remark, such as `buildkit.dockerfile.v0`.
    #[serde(deserialize_with = "null_as_default")]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(deserialize_with = "null_as_default")]
    pub empty_layer: bool,
    /// Members that are not named here, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// A config as it was received: its value, and the bytes that its digest is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedConfig {
    bytes: Vec<u8>,
    id: ImageId,
    /// The value.
    pub config: ImageConfig,
}

/// Some tools write an empty string where there is no time.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => Timestamp::deserialize(value)
            .map(Some)
            .map_err(serde::de::Error::custom),
    }
}

impl ImageConfig {
    /// The config of an image with nothing in it: `FROM scratch`.
    pub fn empty(platform: &Platform) -> Self {
        let mut config = Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            ..Self::default()
        };
        "layers".clone_into(&mut config.rootfs.kind);
        "/".clone_into(&mut config.config.working_dir);
        if platform.os != "windows" {
            config.config.set_env("PATH", DEFAULT_PATH);
        }
        config
    }

    /// Reads a config.
    ///
    /// # Errors
    /// When it is larger than [`CONFIG_LIMIT`], not JSON, or a member has the wrong type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        json::parse("image config", bytes, CONFIG_LIMIT)
    }

    /// The config as it is stored and pushed; the same bytes for the same value.
    pub fn to_bytes(&self) -> Vec<u8> {
        Object::default()
            .text("architecture", &self.architecture)
            .text("author", &self.author)
            .always("config", self.config.to_object())
            .optional("created", self.created.as_ref())
            .always("history", list(&self.history, History::to_object))
            .text("os", &self.os)
            .list("os.features", &self.os_features)
            .text("os.version", &self.os_version)
            .always("rootfs", self.rootfs.to_object())
            .text("variant", &self.variant)
            .others(&self.others)
            .sorted()
            .into_bytes()
    }

    /// The platform that the image is for. Docker reads a missing system as `linux`.
    pub fn platform(&self) -> Platform {
        let os = match self.os.as_str() {
            "" => "linux",
            os => os,
        };
        let variant = Some(self.variant.as_str()).filter(|variant| !variant.is_empty());
        Platform::new(os, &self.architecture, variant)
    }

    /// Adds a step to the history. `created_by` is the instruction; a step with a layer must
    /// go with a diff ID pushed to `rootfs`.
    pub fn push_history(
        &mut self,
        created: Option<Timestamp>,
        created_by: &str,
        empty_layer: bool,
    ) {
        self.history.push(History {
            created,
            created_by: created_by.to_owned(),
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer,
            ..History::default()
        });
    }

    /// Whether the history tells of as many layers as there are. Some images have no history,
    /// or one of only some layers.
    pub fn history_matches_layers(&self) -> bool {
        let with_layer = self.history.iter().filter(|step| !step.empty_layer);
        with_layer.count() == self.rootfs.diff_ids.len()
    }
}

impl ExecutionConfig {
    /// The value of an environment variable. The last entry counts where a name comes twice.
    pub fn env(&self, name: &str) -> Option<&str> {
        let named = |entry: &&String| split_env(entry).0 == name;
        self.env.iter().rfind(named).map(|entry| split_env(entry).1)
    }

    /// Sets an environment variable: in its place where the name is there, else at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.env.iter_mut().find(|e| split_env(e).0 == name) {
            Some(place) => *place = entry,
            None => self.env.push(entry),
        }
    }

    /// All environment variables as pairs of name and value, in order.
    pub fn env_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|entry| split_env(entry))
    }

    fn to_object(&self) -> Object {
        let object = Object::default()
            .text("User", &self.user)
            .names("ExposedPorts", &self.exposed_ports)
            .list("Env", &self.env)
            .list("Entrypoint", &self.entrypoint)
            .list("Cmd", &self.cmd)
            .names("Volumes", &self.volumes)
            .text("WorkingDir", &self.working_dir)
            .map("Labels", &self.labels)
            .text("StopSignal", &self.stop_signal)
            .flag("ArgsEscaped", self.args_escaped);
        let object = match &self.healthcheck {
            Some(healthcheck) => object.always("Healthcheck", healthcheck.to_object()),
            None => object,
        };
        object
            .list("OnBuild", &self.on_build)
            .list("Shell", &self.shell)
            .others(&self.others)
    }
}

fn split_env(entry: &str) -> (&str, &str) {
    entry.split_once('=').unwrap_or((entry, ""))
}

impl Healthcheck {
    fn to_object(&self) -> Object {
        Object::default()
            .list("Test", &self.test)
            .number("Interval", self.interval)
            .number("Timeout", self.timeout)
            .number("StartPeriod", self.start_period)
            .number("StartInterval", self.start_interval)
            .number("Retries", self.retries)
            .others(&self.others)
    }
}

impl RootFs {
    fn to_object(&self) -> Object {
        let kind = match self.kind.as_str() {
            "" => "layers",
            kind => kind,
        };
        let diff_ids: Vec<String> = self.diff_ids.iter().map(DiffId::to_string).collect();
        Object::default()
            .always("type", kind)
            .always("diff_ids", diff_ids)
            .others(&self.others)
    }
}

impl History {
    fn to_object(&self) -> Object {
        Object::default()
            .optional("created", self.created.as_ref())
            .text("created_by", &self.created_by)
            .text("author", &self.author)
            .text("comment", &self.comment)
            .flag("empty_layer", self.empty_layer)
            .others(&self.others)
    }
}

fn list<T>(items: &[T], object: impl Fn(&T) -> Object) -> Vec<Value> {
    items.iter().map(|item| object(item).into_value()).collect()
}

impl ParsedConfig {
    /// Reads a config and keeps its bytes.
    ///
    /// # Errors
    /// As [`ImageConfig::from_bytes`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let config = ImageConfig::from_bytes(&bytes)?;
        let id = ImageId(Digest::of(&bytes));
        Ok(Self { bytes, id, config })
    }

    /// The bytes as they were received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The image's ID: the digest of the bytes.
    pub fn id(&self) -> ImageId {
        self.id
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
