//! What stands where a source of COPY was looked for and isn't there.

use super::destination::display;
use super::selection::Selector;
use super::{CopyError, Missing};
use crate::dockerfile::nearest::nearest;
use crate::layer::entry::{EntryKind, join_path};
use crate::snapshot::{FileTree, Node};

/// So many names of a directory are told.
const TOLD: usize = 8;
/// Directories larger than this are not searched for a name like the one that is missing.
const SEARCHED: usize = 10_000;

impl Selector<'_> {
    /// The error for a path that isn't there.
    pub(super) fn not_found(&self, path: &[u8]) -> CopyError {
        let mut missing = Missing {
            path: display(path),
            source: self.written.get(),
            nearest: None,
            link: None,
            directory: "/".to_owned(),
            names: Vec::new(),
            has_more: false,
        };
        if let Some(tree) = self.tree {
            look_around(&**tree, path, &mut missing);
        }
        CopyError::NotFound(Box::new(missing))
    }
}

/// What a link says.
fn display_link(node: &Node) -> String {
    String::from_utf8_lossy(&node.entry.link).into_owned()
}

fn look_around(tree: &dyn FileTree, path: &[u8], missing: &mut Missing) {
    let directory = |path: &[u8]| -> Option<Node> {
        let node = tree.lookup(path, true).ok()??;
        node.entry.is_directory().then_some(node)
    };
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let mut reached = Vec::new();
    let mut depth = 0;
    for part in &parts {
        let next = join_path(&reached, part);
        if directory(&next).is_none() {
            break;
        }
        reached = next;
        depth += 1;
    }
    let (Some(above), Some(absent)) = (directory(&reached), parts.get(depth)) else {
        return;
    };
    let Ok(children) = tree.children(&above.entry.path) else {
        return;
    };
    let name = |node: &Node| String::from_utf8_lossy(node.entry.name()).into_owned();
    let names: Vec<String> = children.iter().take(SEARCHED).map(name).collect();
    let absent = String::from_utf8_lossy(absent);
    missing.link = match tree.lookup(&join_path(&reached, absent.as_bytes()), false) {
        Ok(Some(node)) if node.entry.kind == EntryKind::Symlink => Some(display_link(&node)),
        _ => None,
    };
    // a name in another letter case is another name, and the most likely one
    let lower = absent.to_lowercase();
    let other_case = names.iter().map(String::as_str);
    let mut other_case = other_case.filter(|name| *name != absent && name.to_lowercase() == lower);
    let near = other_case.next();
    if let Some(near) = near.or_else(|| nearest(&absent, names.iter().map(String::as_str))) {
        let mut found = join_path(&reached, near.as_bytes());
        for part in parts.iter().skip(depth + 1) {
            found = join_path(&found, part);
        }
        // a folder of that name helps only where the rest is in it
        if matches!(tree.lookup(&found, true), Ok(Some(_))) {
            missing.nearest = Some(display(&found).trim_start_matches('/').to_owned());
        }
    }
    missing.directory = display(&reached);
    missing.has_more = children.len() > TOLD;
    missing.names = names.into_iter().take(TOLD).collect();
}
