//! Who may depend on what (`ARCHITECTURE.md`).

use syn::{Attribute, Meta};

use super::source::{Source, Token};
use crate::workspace::Workspace;

/// A crate that only some modules may name.
struct Rule {
    /// Where the rule holds.
    within: &'static str,
    /// The crate's name in paths.
    name: &'static str,
    /// Beginnings of the paths of files that may name it.
    allowed: &'static [&'static str],
}

const RULES: [Rule; 5] = [
    Rule {
        within: "lb-agent/src/",
        name: "kube",
        allowed: &["lb-agent/src/source/kubernetes"],
    },
    Rule {
        within: "lb-agent/src/",
        name: "aya",
        allowed: &["lb-agent/src/dataplane/bpf", "lb-agent/src/object.rs"],
    },
    Rule {
        within: "lb-agent/src/",
        name: "anyhow",
        allowed: &["lb-agent/src/main.rs"],
    },
    Rule {
        within: "lb-common/src/",
        name: "std",
        allowed: &[],
    },
    Rule {
        within: "lb-common/src/",
        name: "aya_ebpf",
        allowed: &[],
    },
];

/// Packages that lb-common must not depend on: the kernel's, the cluster's, the system's.
const IMPURE: [&str; 8] = [
    "aya",
    "aya-ebpf",
    "k8s-openapi",
    "kube",
    "libc",
    "nix",
    "tokio",
    "tracing",
];

/// Files that name a crate that they must not know.
pub(super) fn modules(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in &RULES {
        let inside = sources
            .iter()
            .filter(|source| source.path.starts_with(rule.within));
        for source in inside.filter(|source| {
            !rule
                .allowed
                .iter()
                .any(|path| source.path.starts_with(path))
        }) {
            let tokens = source.product_tokens();
            problems.extend(
                named(&tokens, rule.name)
                    .map(|line| format!("{}:{line}: names {}", source.path, rule.name)),
            );
        }
    }
    problems
}

/// What makes lb-common impure.
pub(super) fn purity(workspace: &Workspace, sources: &[Source]) -> Vec<String> {
    let package = workspace
        .packages
        .iter()
        .find(|package| package.name == "lb-common");
    let root = sources
        .iter()
        .find(|source| source.path == "lb-common/src/lib.rs");
    let (Some(package), Some(root)) = (package, root) else {
        return vec!["lb-common is not there".to_owned()];
    };
    let normal = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.is_none());
    let impure = normal.filter(|dependency| IMPURE.contains(&dependency.name.as_str()));
    let mut problems: Vec<_> = impure
        .map(|dependency| format!("lb-common depends on {}", dependency.name))
        .collect();
    problems.extend(
        missing_attributes(&root.syntax.attrs)
            .map(|attribute| format!("{} lacks #![{attribute}]", root.path)),
    );
    problems
}

/// The attributes that the crate's root must have and has not.
fn missing_attributes(attributes: &[Attribute]) -> impl Iterator<Item = &'static str> {
    let has_no_std = attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("no_std"));
    let forbids_unsafe = attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => {
            list.path.is_ident("forbid") && list.tokens.to_string().contains("unsafe_code")
        }
        _ => false,
    });
    let wanted = [
        ("no_std", has_no_std),
        ("forbid(unsafe_code)", forbids_unsafe),
    ];
    wanted
        .into_iter()
        .filter_map(|(attribute, there)| (!there).then_some(attribute))
}

/// The lines that name the crate `name`: `name::…` that is not within a longer path, or
/// `use name` and `extern crate name`.
fn named<'a>(tokens: &'a [Token], name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let mentions = tokens
        .iter()
        .enumerate()
        .filter(move |(_, token)| token.text == name);
    let crates = mentions.filter(|&(at, _)| {
        let text = |offset: usize| tokens.get(offset).map(|token| token.text.as_str());
        let before = |distance: usize| at.checked_sub(distance).and_then(text);
        let is_root = text(at + 1) == Some(":") && text(at + 2) == Some(":");
        // `::name::` is a root as well; `a::name::` is not.
        let is_within = before(1) == Some(":") && before(3).is_some_and(is_name);
        (is_root && !is_within) || matches!(before(1), Some("use" | "crate"))
    });
    crates.map(|(_, token)| token.line)
}

/// Whether a token can stand before `::` in a path.
fn is_name(token: &str) -> bool {
    token == ">"
        || (token.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && token != "use")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        modules(&[Source::parse(path, text).unwrap()])
    }

    #[test]
    fn crate_is_found_however_it_is_named() {
        for text in [
            "use kube::Api;",
            "use kube;",
            "use ::kube::Api;",
            "use {kube::Api, std::fmt};",
            "fn f() -> kube::Result<()> { g() }",
            "fn f() { select! { _ = kube::g() => {} } }",
            "extern crate kube;",
        ] {
            assert_eq!(
                problems("lb-agent/src/model.rs", text),
                ["lb-agent/src/model.rs:1: names kube"],
                "{text}"
            );
        }
    }

    #[test]
    fn module_or_variable_of_the_same_name_is_not_the_crate() {
        for text in [
            "use crate::source::kube::Watch;",
            "/// Uses kube::Api.\nfn f() { let kube = 1; g(kube); }",
            "use a::{self, kubelet::B};",
            "#[cfg(test)]\nmod tests { use kube::Api; }",
        ] {
            assert_eq!(
                problems("lb-agent/src/model.rs", text),
                Vec::<String>::new(),
                "{text}"
            );
        }
    }

    #[test]
    fn crates_may_be_named_where_they_belong() {
        assert!(problems("lb-agent/src/source/kubernetes/watch.rs", "use kube::Api;").is_empty());
        assert!(problems("lb-agent/src/dataplane/bpf/maps.rs", "use aya::maps::Map;").is_empty());
        assert!(problems("lb-agent/src/main.rs", "use anyhow::Result;").is_empty());
        assert_eq!(
            problems("lb-agent/src/dataplane/memory.rs", "use aya::maps::Map;").len(),
            1
        );
        assert_eq!(problems("lb-common/src/flow.rs", "use std::fmt;").len(), 1);
    }

    #[test]
    fn pure_crate_forbids_unsafe_code_and_has_no_std() {
        let missing =
            |text| missing_attributes(&syn::parse_file(text).unwrap().attrs).collect::<Vec<_>>();
        assert!(missing("#![no_std]\n#![forbid(unsafe_code)]").is_empty());
        assert_eq!(
            missing("#![no_std]\n#![deny(unsafe_code)]"),
            ["forbid(unsafe_code)"]
        );
        assert_eq!(missing("#![forbid(missing_docs, unsafe_code)]"), ["no_std"]);
    }
}
