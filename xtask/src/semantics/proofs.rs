//! The tests that prove an item, found by their names: `s41_…` proves item 41, `s13_s14_…` and
//! `s13_and_s14_…` prove two.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, ItemFn, ItemMacro,
    visit::{self, Visit},
};

use crate::tidy::source::Source;

/// A test that proves something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// The file that it is in.
    pub(super) path: String,
    /// Its name without modules.
    pub(super) name: String,
    /// What it proves.
    pub(super) items: Vec<u32>,
}

/// Finds the tests that prove something, in the order of files.
pub(super) fn find(sources: &[Source]) -> Vec<Proof> {
    let mut proofs = Vec::new();
    for source in sources {
        let named = test_names(source)
            .into_iter()
            .map(|name| (items(&name), name));
        proofs.extend(
            named
                .filter(|(items, _)| !items.is_empty())
                .map(|(items, name)| Proof {
                    path: source.path.clone(),
                    name,
                    items,
                }),
        );
    }
    proofs
}

/// The names of all tests in a file, without modules.
pub(crate) fn test_names(source: &Source) -> Vec<String> {
    let mut tests = Tests(Vec::new());
    tests.visit_file(&source.syntax);
    tests.0
}

/// The items that the test `name` proves.
pub(super) fn items(name: &str) -> Vec<u32> {
    let mut items = Vec::new();
    let mut rest = name;
    while let Some((item, behind)) = first_item(rest) {
        items.push(item);
        rest = behind.strip_prefix("and_").unwrap_or(behind);
    }
    items
}

/// The number in `s41_…`, and what follows.
fn first_item(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix('s')?.split_once('_')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok())?.zip(Some(rest))
}

/// The names of a file's tests.
struct Tests(Vec<String>);

impl<'ast> Visit<'ast> for Tests {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if function.attrs.iter().any(is_test) {
            self.0.push(function.sig.ident.to_string());
        }
        visit::visit_item_fn(self, function);
    }

    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        // What `macro_rules!` says has a name, and is a test only where it is used.
        if item.ident.is_none() {
            self.0.extend(tests_in(item.mac.tokens.clone()));
        }
    }
}

/// `#[test]`, `#[tokio::test]` and the like.
fn is_test(attribute: &Attribute) -> bool {
    let last = attribute.path().segments.last();
    last.is_some_and(|segment| segment.ident == "test")
}

/// The tests among a macro's arguments, as `proptest!` has them.
fn tests_in(tokens: TokenStream) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_next_a_test = false;
    let mut last = None;
    for token in tokens {
        match (&last, &token) {
            (Some(TokenTree::Punct(hash)), TokenTree::Group(group)) if hash.as_char() == '#' => {
                is_next_a_test |= is_path_to_test(group.stream());
            }
            (Some(TokenTree::Ident(keyword)), TokenTree::Ident(name)) if keyword == "fn" => {
                let is_test = std::mem::take(&mut is_next_a_test);
                tests.extend(is_test.then(|| name.to_string()));
            }
            _ => {}
        }
        last = Some(token);
    }
    tests
}

/// Whether an attribute's content is `test` or a path that ends so.
fn is_path_to_test(attribute: TokenStream) -> bool {
    let path = attribute
        .into_iter()
        .take_while(|token| !matches!(token, TokenTree::Group(_)));
    path.last().is_some_and(|token| token.to_string() == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let source = Source::parse("a.rs", text).unwrap();
        find(&[source])
            .into_iter()
            .map(|proof| proof.name)
            .collect()
    }

    #[test]
    fn names_say_what_is_proved() {
        assert_eq!(items("s41_nobody_listens"), [41]);
        assert_eq!(items("s13_s14_sets_fall_back"), [13, 14]);
        assert_eq!(items("s13_and_s14_sets_fall_back"), [13, 14]);
        assert_eq!(items("s5_s6_and_s7_slices"), [5, 6, 7]);
    }

    #[test]
    fn other_names_prove_nothing() {
        for name in [
            "s41",
            "s_41_x",
            "sctp_4",
            "s4x_y",
            "service_41",
            "x_s41_y",
            "s+4_x",
            "s4",
        ] {
            assert_eq!(items(name), Vec::<u32>::new(), "{name}");
        }
    }

    #[test]
    fn number_within_the_description_is_no_second_item() {
        assert_eq!(items("s41_and_more_s42_than_that"), [41]);
    }

    #[test]
    fn tests_are_found_in_modules_and_under_every_attribute() {
        let text = "
            #[test] fn s1_a() {}
            mod tests {
                #[tokio::test(flavor = \"current_thread\")] async fn s2_b() {}
                mod inner { #[test] #[should_panic] fn s3_c() {} }
            }";
        assert_eq!(names(text), ["s1_a", "s2_b", "s3_c"]);
    }

    #[test]
    fn tests_of_properties_are_found() {
        let text = "
            mod tests { proptest! {
                #![proptest_config(Config::with_cases(4))]
                /// It is so.
                #[test]
                fn s1_a(x in 0..4) { fn inner() {} }
                #[test]
                #[cfg_attr(miri, slow)]
                fn s2_b(x in 0..4) {}
                fn s3_helper() {}
            } }";
        assert_eq!(names(text), ["s1_a", "s2_b"]);
    }

    #[test]
    fn what_is_no_test_proves_nothing() {
        for text in [
            "fn s1_helper() {}",
            "// #[test] fn s1_a() {}",
            "fn f() { \"#[test] fn s1_a() {}\"; }",
            "macro_rules! m { () => { #[test] fn s1_a() {} } }",
            "#[test] fn works() {}",
        ] {
            assert_eq!(names(text), Vec::<String>::new(), "{text}");
        }
    }
}
