//! How long files and functions may be.

use proc_macro2::Span;
use syn::{
    Block, ImplItemFn, ItemFn, Signature, TraitItemFn,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::source::Source;

/// Lines of a file without its tests.
const FILE: usize = 500;

/// Lines of a function, from its signature to its closing brace.
const FUNCTION: usize = 60;

/// Files that are too long. Files of nothing but tests have no limit, but in the lab's own
/// package: there the tests are the product.
pub(super) fn files(sources: &[Source]) -> Vec<String> {
    let measured = sources
        .iter()
        .filter(|source| source.path.starts_with("tests/") || !source.is_test());
    let lengths = measured.map(|source| (&source.path, source.lines - source.test_lines()));
    let long = lengths.filter(|&(_, lines)| lines > FILE);
    long.map(|(path, lines)| format!("{path} has {lines} lines"))
        .collect()
}

/// Functions that are too long.
pub(super) fn functions(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let mut finder = Finder {
            path: &source.path,
            problems: &mut problems,
        };
        finder.visit_file(&source.syntax);
    }
    problems
}

/// Visits functions wherever they are.
struct Finder<'a> {
    path: &'a str,
    problems: &'a mut Vec<String>,
}

impl Finder<'_> {
    fn measure(&mut self, signature: &Signature, body: &Block) {
        let (start, end): (Span, Span) = (signature.span(), body.span());
        let lines = end.end().line + 1 - start.start().line;
        if lines > FUNCTION {
            let (path, line, name) = (self.path, start.start().line, &signature.ident);
            self.problems
                .push(format!("{path}:{line}: {name} has {lines} lines"));
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> [Source; 1] {
        [Source::parse(path, text).unwrap()]
    }

    /// A function of `lines` lines in an `impl`, documented at length.
    fn function(lines: usize) -> String {
        let body = "        f();\n".repeat(lines - 2);
        format!("impl A {{\n    /// One.\n    /// Two.\n    fn long() {{\n{body}    }}\n}}\n")
    }

    #[test]
    fn function_of_sixty_lines_passes_and_one_more_fails() {
        assert_eq!(
            functions(&source("a.rs", &function(60))),
            Vec::<String>::new()
        );
        assert_eq!(
            functions(&source("a.rs", &function(61))),
            ["a.rs:4: long has 61 lines"]
        );
    }

    #[test]
    fn tests_of_a_file_do_not_count() {
        let product = "fn f() {}\n".repeat(500);
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    fn f() {}\n".repeat(300)
        );
        assert_eq!(
            files(&source("a.rs", &format!("{product}{tests}"))),
            Vec::<String>::new()
        );
        let long = format!("fn f() {{}}\n{product}{tests}");
        assert_eq!(files(&source("a.rs", &long)), ["a.rs has 501 lines"]);
    }

    #[test]
    fn files_of_the_lab_count_whole_and_tests_of_others_do_not() {
        let long = "fn f() {}\n".repeat(501);
        assert_eq!(files(&source("tests/tests/e2e.rs", &long)).len(), 1);
        assert_eq!(
            files(&source("lb-agent/src/model/tests.rs", &long)).len(),
            0
        );
    }
}
