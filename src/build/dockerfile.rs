//! Finds the Dockerfile and its ignore file, and opens the context.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{BuildError, Located};
use super::{BuildRequest, ContextSource, DockerfileSource, NamedContext};
use crate::context::ContextError;
use crate::context::filter::ContextTree;
use crate::context::local::LocalTree;
use crate::context::stream::StreamTree;
use crate::ignore::{self, Matcher};
use crate::snapshot::FileTree;
use crate::store::Store;

/// The largest Dockerfile and ignore file that are read.
const LIMIT: u64 = 16 << 20;
const DEFAULT: &str = "Dockerfile";

/// A Dockerfile's text and the context that goes with it.
pub(super) struct Opened {
    pub(super) dockerfile: Located,
    pub(super) context: Arc<dyn FileTree>,
    /// What it leaves out.
    pub(super) ignore: Option<Matcher>,
}

/// Either kind of context, to read its own files from.
enum Tree {
    Local(Arc<LocalTree>, PathBuf),
    Stream(Arc<StreamTree>),
}

impl Tree {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        match self {
            Self::Local(tree, _) => tree.read(path, LIMIT),
            Self::Stream(tree) => tree.read_file(path, LIMIT),
        }
    }
}

/// Opens what the request names. `stdin` is standard input, from its first byte.
pub(super) fn open(
    request: &BuildRequest,
    store: &Store,
    stdin: Option<Box<dyn Read + Send>>,
) -> Result<Opened, BuildError> {
    let mut stdin = stdin;
    let tree = match &request.context {
        ContextSource::Directory(path) => {
            let tree = LocalTree::open(path, Some(store))?;
            Tree::Local(Arc::new(tree), path.clone())
        }
        ContextSource::Stdin => {
            let stream = stdin.take().ok_or_else(no_stdin)?;
            Tree::Stream(Arc::new(StreamTree::read(stream, store)?))
        }
    };
    let (name, bytes, ignore_beside) = dockerfile(request, &tree, stdin)?;
    let text = String::from_utf8(bytes).map_err(|_| BuildError::NotText(name.clone()))?;
    let ignore = ignore_file(&tree, ignore_beside)?;
    let context: Arc<dyn FileTree> = match tree {
        Tree::Local(tree, _) => tree,
        Tree::Stream(tree) => tree,
    };
    Ok(Opened {
        dockerfile: Located {
            name,
            text: text.into(),
            diagnostics: Vec::new(),
        },
        context: Arc::new(ContextTree::new(context, ignore.clone())),
        ignore,
    })
}

/// Opens the named contexts that are folders, in the order of their names.
pub(super) fn open_folders(
    request: &BuildRequest,
    store: &Store,
) -> Result<Vec<Arc<dyn FileTree>>, BuildError> {
    let mut folders: Vec<Arc<dyn FileTree>> = Vec::new();
    for context in request.contexts.values() {
        let NamedContext::Folder(path) = context else {
            continue;
        };
        let folder = Arc::new(LocalTree::open(path, Some(store))?);
        let tree = Tree::Local(Arc::clone(&folder), path.clone());
        let ignore = ignore_file(&tree, None)?;
        folders.push(Arc::new(ContextTree::new(folder, ignore)));
    }
    Ok(folders)
}

fn no_stdin() -> BuildError {
    BuildError::Request("standard input is the context and the Dockerfile at once".to_owned())
}

/// An ignore file that belongs to one Dockerfile: its name, and its content if it is there.
type IgnoreFile = Option<(String, Vec<u8>)>;

/// The Dockerfile's name and bytes, and the ignore file of its own.
fn dockerfile(
    request: &BuildRequest,
    tree: &Tree,
    stdin: Option<Box<dyn Read + Send>>,
) -> Result<(String, Vec<u8>, IgnoreFile), BuildError> {
    match (&request.dockerfile, tree) {
        (DockerfileSource::Stdin, _) => {
            let mut bytes = Vec::new();
            let read = stdin
                .ok_or_else(no_stdin)?
                .take(LIMIT)
                .read_to_end(&mut bytes);
            read.map_err(|source| ContextError::Read {
                path: "standard input".to_owned(),
                source,
            })?;
            Ok((DEFAULT.to_owned(), bytes, None))
        }
        (DockerfileSource::Default, _) => in_context(tree, DEFAULT),
        (DockerfileSource::File(path), Tree::Local(..)) => beside(path),
        (DockerfileSource::File(path), Tree::Stream(_)) => {
            in_context(tree, &path.to_string_lossy())
        }
    }
}

/// A file of a context as the user knows it.
fn shown(tree: &Tree, name: &str) -> String {
    match tree {
        Tree::Local(_, folder) => folder.join(name).display().to_string(),
        Tree::Stream(_) => name.to_owned(),
    }
}

fn in_context(tree: &Tree, name: &str) -> Result<(String, Vec<u8>, IgnoreFile), BuildError> {
    let shown = shown(tree, name);
    let mut bytes = tree.read(name.as_bytes())?;
    if bytes.is_none() && name == DEFAULT {
        // BuildKit takes the lower-case name too.
        bytes = tree.read(b"dockerfile")?;
    }
    let bytes = bytes.ok_or_else(|| BuildError::NoDockerfile(shown.clone()))?;
    let ignore = format!("{name}.dockerignore");
    let content = tree.read(ignore.as_bytes())?;
    Ok((shown, bytes, content.map(|content| (ignore, content))))
}

/// `-f FILE` is a path of the machine, inside the context or not.
fn beside(path: &Path) -> Result<(String, Vec<u8>, IgnoreFile), BuildError> {
    let shown = path.display().to_string();
    let read = |path: &Path| -> Result<Option<Vec<u8>>, BuildError> {
        match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(read_error(path, source)),
            Ok(file) => {
                let mut bytes = Vec::new();
                let read = file.take(LIMIT).read_to_end(&mut bytes);
                read.map_err(|source| read_error(path, source))?;
                Ok(Some(bytes))
            }
        }
    };
    let bytes = read(path)?.ok_or_else(|| BuildError::NoDockerfile(shown.clone()))?;
    let mut ignore = path.as_os_str().to_owned();
    ignore.push(".dockerignore");
    let ignore = PathBuf::from(ignore);
    let content = read(&ignore)?;
    Ok((
        shown,
        bytes,
        content.map(|content| (ignore.display().to_string(), content)),
    ))
}

fn read_error(path: &Path, source: std::io::Error) -> BuildError {
    ContextError::Read {
        path: path.display().to_string(),
        source,
    }
    .into()
}

/// The Dockerfile's own ignore file, else the context's.
fn ignore_file(tree: &Tree, own: IgnoreFile) -> Result<Option<Matcher>, ContextError> {
    const SHARED: &str = ".dockerignore";
    let found = match own {
        Some(own) => Some(own),
        None => tree
            .read(SHARED.as_bytes())?
            .map(|content| (shown(tree, SHARED), content)),
    };
    let Some((path, content)) = found else {
        return Ok(None);
    };
    let patterns = ignore::read_patterns(&content);
    let matcher = Matcher::new(&patterns).map_err(|error| ContextError::Ignore {
        path,
        message: error.to_string(),
    })?;
    Ok((!matcher.is_empty()).then_some(matcher))
}
