use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::layer::apply::extract;
use crate::layer::diff::{FileState, Owners, index_folder};
use crate::layer::testing::{Layer, Tree, any_layer, own_form};

/// Layers with their contents, and the view of all.
struct Stack {
    layers: Vec<Layer>,
    view: View,
}

impl Stack {
    fn new(layers: Vec<Layer>) -> Self {
        let mut view = View::default();
        for layer in &layers {
            let tree = Tree::new();
            let tar = layer.tar().0;
            let index = extract(tar.as_slice(), tree.fd(), &own_form(), &view).unwrap();
            view.push(Arc::new(index));
        }
        Self { layers, view }
    }

    fn of(&self, count: usize) -> View {
        View::new(self.view.layers()[..count].to_vec())
    }

    fn fill(&self, tree: &Tree, view: &View, present: usize) {
        let mut content = |found: &Found<'_>, file: &mut File| {
            file.write_all(&self.layers[found.layer].contents[&found.entry.path])
        };
        fill(tree.fd(), &own_form(), view, present, &mut content).unwrap();
    }

    /// What `tree` has other than `view`.
    fn differences(&self, tree: &Tree, view: &View) -> Index {
        let lower = |_: &[u8], found: &Found<'_>| -> io::Result<Box<dyn io::Read>> {
            let content = self.layers[found.layer].contents[&found.entry.path].clone();
            Ok(Box::new(io::Cursor::new(content)))
        };
        let (form, owners) = (own_form(), Owners::supervised());
        index_folder(tree.fd(), &form, view, &owners, &lower, &mut |_, _| {
            FileState::Known
        })
        .unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_folder_shows_what_the_view_says_whether_filled_at_once_or_layer_by_layer(
        layers in proptest::collection::vec(any_layer(true), 1..4),
        steps in any::<bool>(),
    ) {
        let stack = Stack::new(layers);
        let tree = Tree::new();
        let count = stack.layers.len();
        let first = if steps { 1 } else { count };
        for present in first..=count {
            let from = if present == first { 0 } else { present - 1 };
            stack.fill(&tree, &stack.of(present), from);
        }
        let differences = stack.differences(&tree, &stack.view);
        prop_assert!(differences.entries.is_empty(), "{:?}", differences.entries);
    }
}

#[test]
fn contents_are_copied_from_any_place_of_a_file() {
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(b"before|content|after").unwrap();
    let mut copy = tempfile::NamedTempFile::new().unwrap();
    copy_range(&source, 7, 7, copy.as_file_mut()).unwrap();
    assert_eq!(std::fs::read(copy.path()).unwrap(), b"content");
    let short = copy_range(&source, 7, 100, copy.as_file_mut()).unwrap_err();
    assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
}
