//! Finds the Dockerfile and its ignore file, and opens the context.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{BuildError, Located};
use super::remote::Remotes;
use super::{BuildRequest, ContextSource, DockerfileSource, NamedContext};
use crate::context::filter::ContextTree;
use crate::context::local::LocalTree;
use crate::context::stream::{HEAD, StreamTree, is_archive};
use crate::context::{self, ContextError};
use crate::dockerfile::values::boolean;
use crate::graph::RemoteSource;
use crate::ignore::{self, Matcher};
use crate::remote::git::{FileTimes, GitSource};
use crate::remote::shown_url;
use crate::snapshot::{FileTree, TreeError};
use crate::step::ContextFolder;
use crate::store::Store;

/// The largest Dockerfile and ignore file that are read.
const LIMIT: u64 = 16 << 20;
const DEFAULT: &str = "Dockerfile";
/// The build argument that keeps `.git` in a build context that is a repository.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// A Dockerfile's text and the context that goes with it.
pub(super) struct Opened {
    pub(super) dockerfile: Located,
    pub(super) context: Arc<dyn FileTree>,
    /// What it leaves out.
    pub(super) ignore: Option<Matcher>,
    /// The same, to be told about.
    pub(super) ignored: Ignored,
}

/// What a context leaves out, and why.
pub(super) struct Ignored {
    files: Arc<dyn FileTree>,
    ignore: Option<IgnoreText>,
}

/// An ignore file.
struct IgnoreText {
    name: String,
    content: Vec<u8>,
}

impl Ignored {
    /// The line of the ignore file that keeps a file, which is there, from being seen: its place
    /// and its pattern.
    pub(super) fn line(&self, path: &[u8]) -> Option<(String, String)> {
        let ignore = self.ignore.as_ref()?;
        self.files.lookup(path, true).ok()??;
        let (line, pattern) = ignore::deciding_line(&ignore.content, path)?;
        Some((format!("{}:{line}", ignore.name), pattern))
    }
}

/// A context of any kind, to read its own files from.
enum Tree {
    /// A folder of this machine.
    Local(Arc<LocalTree>, PathBuf),
    /// An archive on standard input.
    Stream(Arc<dyn FileTree>),
    /// From elsewhere.
    Remote(Arc<dyn FileTree>),
    /// One file from elsewhere, of this name, which is the Dockerfile.
    RemoteFile(Arc<dyn FileTree>, String),
}

impl Tree {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        match self {
            Self::Local(tree, _) => tree.read(path, LIMIT),
            Self::Stream(tree) | Self::Remote(tree) | Self::RemoteFile(tree, _) => {
                context::read_file(tree.as_ref(), path, LIMIT)
            }
        }
    }
}

/// What of a request comes from elsewhere.
pub(super) struct Fetched {
    context: Option<Tree>,
    dockerfile: Option<Text>,
}

/// Fetches the context and the Dockerfile, as far as they are elsewhere.
pub(super) async fn fetch(
    request: &BuildRequest,
    remotes: &Remotes,
) -> Result<Fetched, BuildError> {
    let context = match &request.context {
        ContextSource::Remote(RemoteSource::Git(source)) => {
            let source = RemoteSource::Git(main_context(source, request));
            Some(remote(&source, remotes).await?)
        }
        ContextSource::Remote(source) => Some(remote(source, remotes).await?),
        ContextSource::Directory(_) | ContextSource::Stdin => None,
    };
    let dockerfile = match &request.dockerfile {
        DockerfileSource::Url(url) => Some(dockerfile_at(url, remotes).await?),
        _ => None,
    };
    Ok(Fetched {
        context,
        dockerfile,
    })
}

/// Opens what the request names and is not in `fetched`. `stdin` is standard input, from its
/// first byte.
pub(super) fn open(
    request: &BuildRequest,
    fetched: Fetched,
    store: &Store,
    stdin: Option<Box<dyn Read + Send>>,
) -> Result<Opened, BuildError> {
    let mut stdin = stdin;
    let tree = match (&request.context, fetched.context) {
        (_, Some(tree)) => tree,
        (ContextSource::Directory(path), None) => {
            let tree = LocalTree::open(path, Some(store))?;
            Tree::Local(Arc::new(tree), path.clone())
        }
        (ContextSource::Stdin | ContextSource::Remote(_), None) => {
            let stream = stdin.take().ok_or_else(no_stdin)?;
            let tree = StreamTree::read(stream, "standard input", store)?;
            Tree::Stream(Arc::new(tree))
        }
    };
    let (name, bytes, ignore_beside) = match fetched.dockerfile {
        Some(dockerfile) => dockerfile,
        None => dockerfile(request, &tree, stdin)?,
    };
    let text = String::from_utf8(bytes).map_err(|_| BuildError::NotText(name.clone()))?;
    let (context, files, ignore, ignore_text) = match tree {
        Tree::Local(ref folder, _) => {
            let (ignore, text) = ignore_file(&tree, ignore_beside)?;
            let folder: Arc<dyn FileTree> = folder.clone();
            let seen = ContextTree::new(Arc::clone(&folder), ignore.clone());
            let seen: Arc<dyn FileTree> = Arc::new(seen);
            (seen, folder, ignore, text)
        }
        // As in BuildKit, ignore files are for folders, and what is no folder of a user's keeps
        // its owners.
        Tree::Stream(tree) | Tree::Remote(tree) | Tree::RemoteFile(tree, _) => {
            (Arc::clone(&tree), tree, None, None)
        }
    };
    Ok(Opened {
        dockerfile: Located {
            name,
            text: text.into(),
            diagnostics: Vec::new(),
        },
        context,
        ignore,
        ignored: Ignored {
            files,
            ignore: ignore_text,
        },
    })
}

/// What the build's own arguments say of a repository that is the build context.
fn main_context(source: &GitSource, request: &BuildRequest) -> GitSource {
    let mut source = source.clone();
    let says_keep = request.build_args.get(KEEP_GIT_DIR);
    source.keep_git_dir |= says_keep.is_some_and(|value| boolean(value) == Some(true));
    if source.times.is_none() && request.source_date_epoch.is_some() {
        source.times = Some(FileTimes::Commit);
    }
    source
}

/// A context from elsewhere: of files, an archive is what is in it.
async fn remote(source: &RemoteSource, remotes: &Remotes) -> Result<Tree, BuildError> {
    let file = match source {
        RemoteSource::Http(file) => file,
        RemoteSource::Git(_) => return Ok(Tree::Remote(remotes.tree(source).await?)),
    };
    let tree = remotes.tree(source).await?;
    let what = shown_url(&file.url);
    let store = remotes.store().clone();
    let name = file.name.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let broken = |reason: String| ContextError::NotAnArchive {
            what: what.clone(),
            reason,
        };
        let open = || -> Result<_, TreeError> {
            let node = tree.lookup(name.as_bytes(), false)?;
            node.map(|node| tree.open(&node.file())).transpose()
        };
        let opened = open().map_err(|error| broken(error.to_string()))?;
        let mut content = opened.ok_or_else(|| broken("it is no file".to_owned()))?;
        let mut head = Vec::with_capacity(HEAD);
        let read = content.by_ref().take(HEAD as u64).read_to_end(&mut head);
        read.map_err(|error| broken(error.to_string()))?;
        if !is_archive(&head) {
            return Ok(Tree::RemoteFile(tree, name));
        }
        let archive = StreamTree::read(std::io::Cursor::new(head).chain(content), &what, &store)?;
        Ok(Tree::Remote(Arc::new(archive)))
    });
    opening.await.map_err(|_| BuildError::Canceled)?
}

/// Named contexts that are folders, in the order of their names. What is elsewhere is fetched
/// when it is wanted.
pub(super) fn open_folders(
    request: &BuildRequest,
    store: &Store,
) -> Result<Vec<ContextFolder>, BuildError> {
    let mut folders = Vec::new();
    for context in request.contexts.values() {
        match context {
            NamedContext::Folder(path) => {
                let folder = Arc::new(LocalTree::open(path, Some(store))?);
                let tree = Tree::Local(Arc::clone(&folder), path.clone());
                let (ignore, _) = ignore_file(&tree, None)?;
                let seen = ContextTree::new(folder, ignore);
                folders.push(ContextFolder::Tree(Arc::new(seen)));
            }
            NamedContext::Remote(source) => folders.push(ContextFolder::Remote(source.clone())),
            NamedContext::Image(_) | NamedContext::File { .. } | NamedContext::Scratch => {}
        }
    }
    Ok(folders)
}

fn no_stdin() -> BuildError {
    BuildError::Request("standard input is the context and the Dockerfile at once".to_owned())
}

/// An ignore file that belongs to one Dockerfile: its name, and its content if it is there.
type IgnoreFile = Option<(String, Vec<u8>)>;

/// A Dockerfile: its name, its bytes, and the ignore file of its own.
type Text = (String, Vec<u8>, IgnoreFile);

/// The Dockerfile of a request.
fn dockerfile(
    request: &BuildRequest,
    tree: &Tree,
    stdin: Option<Box<dyn Read + Send>>,
) -> Result<Text, BuildError> {
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
        (DockerfileSource::File(path), Tree::Local(..)) => beside(path),
        (DockerfileSource::File(path), Tree::Remote(_) | Tree::RemoteFile(..))
            if path.is_absolute() =>
        {
            beside(path)
        }
        (_, Tree::RemoteFile(_, name)) => in_context(tree, name),
        (DockerfileSource::File(path), Tree::Stream(_) | Tree::Remote(_)) => {
            in_context(tree, &path.to_string_lossy())
        }
        (DockerfileSource::Default | DockerfileSource::Url(_), _) => in_context(tree, DEFAULT),
    }
}

/// `-f URL`.
async fn dockerfile_at(url: &str, remotes: &Remotes) -> Result<Text, BuildError> {
    let source = RemoteSource::file(url, DEFAULT);
    let tree = remotes.tree(&source).await?;
    let bytes = context::read_file(tree.as_ref(), DEFAULT.as_bytes(), LIMIT)?;
    let shown = shown_url(url);
    let bytes = bytes.ok_or_else(|| BuildError::NoDockerfile(shown.clone()))?;
    Ok((shown, bytes, None))
}

/// A file of a context as the user knows it.
fn shown(tree: &Tree, name: &str) -> String {
    match tree {
        Tree::Local(_, folder) => folder.join(name).display().to_string(),
        Tree::Stream(_) | Tree::Remote(_) | Tree::RemoteFile(..) => name.to_owned(),
    }
}

fn in_context(tree: &Tree, name: &str) -> Result<Text, BuildError> {
    let shown = shown(tree, name);
    let mut bytes = tree.read(name.as_bytes())?;
    let folder = name.strip_suffix(DEFAULT);
    if bytes.is_none()
        && let Some(folder) = folder.filter(|folder| folder.is_empty() || folder.ends_with('/'))
    {
        // BuildKit takes the lower-case name too.
        bytes = tree.read(format!("{folder}dockerfile").as_bytes())?;
    }
    let bytes = bytes.ok_or_else(|| BuildError::NoDockerfile(shown.clone()))?;
    let ignore = format!("{name}.dockerignore");
    let content = tree.read(ignore.as_bytes())?;
    Ok((shown, bytes, content.map(|content| (ignore, content))))
}

/// `-f FILE` is a path of the machine, inside the context or not.
fn beside(path: &Path) -> Result<Text, BuildError> {
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
fn ignore_file(
    tree: &Tree,
    own: IgnoreFile,
) -> Result<(Option<Matcher>, Option<IgnoreText>), ContextError> {
    const SHARED: &str = ".dockerignore";
    let found = match own {
        Some(own) => Some(own),
        None => tree
            .read(SHARED.as_bytes())?
            .map(|content| (shown(tree, SHARED), content)),
    };
    let Some((name, content)) = found else {
        return Ok((None, None));
    };
    let patterns = ignore::read_patterns(&content);
    let matcher = Matcher::new(&patterns).map_err(|error| ContextError::Ignore {
        path: name.clone(),
        message: error.to_string(),
    })?;
    let matcher = (!matcher.is_empty()).then_some(matcher);
    Ok((matcher, Some(IgnoreText { name, content })))
}
