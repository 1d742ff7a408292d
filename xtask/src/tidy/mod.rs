//! `cargo xtask tidy`: the rules that compilers and linters do not know.

use std::fs;

use anyhow::{Result, ensure};

use self::source::Source;
use crate::{ebpf, semantics::Semantics, tally::Tally, workspace::Workspace};

mod calls;
mod crates;
mod forbidden;
mod size;
pub(crate) mod source;
mod specification;
mod stack;
mod verifier;

/// Checks everything; `bless` records the verifier's counts and the proofs of items instead of
/// comparing them.
pub(crate) fn run(bless: bool) -> Result<Tally> {
    let workspace = Workspace::find()?;
    let sources = Source::read_all(&workspace.root)?;
    let mut tally = Tally::default();
    tally.record(check(
        "files have at most 500 lines without tests",
        size::files(&sources),
    ));
    tally.record(check(
        "functions have at most 60 lines",
        size::functions(&sources),
    ));
    tally.record(check(
        "only the right modules name a crate",
        crates::modules(&sources),
    ));
    tally.record(check(
        "lb-common stays pure",
        crates::purity(&workspace, &sources),
    ));
    tally.record(check(
        "nothing unfinished, ignored or asleep",
        forbidden::check(&sources),
    ));
    tally.record(
        Semantics::read(&workspace, &sources)
            .and_then(|semantics| semantics.check_page(&workspace, bless))
            .and_then(|problems| {
                check("docs/semantics.md names the tests that there are", problems)
            }),
    );
    tally.record(
        specification::check(&workspace, &sources)
            .and_then(|problems| check("SPECIFICATION.md names tests that there are", problems)),
    );
    check_object(&workspace, bless, &mut tally);
    Ok(tally)
}

/// Checks the programs. Without an object there is nothing to check, but what was found before must still be said.
fn check_object(workspace: &Workspace, bless: bool, tally: &mut Tally) {
    let object = match ebpf::build().and_then(|path| Ok(fs::read(path)?)) {
        Ok(object) => object,
        Err(error) => return tally.record(Err(error)),
    };
    let no_slow_calls = "no program calls memcpy and its kin";
    tally.record(calls::check(&object).and_then(|problems| check(no_slow_calls, problems)));
    let small_frames = "calls have room on the stack where kernels count most";
    tally.record(stack::check(&object).and_then(|problems| check(small_frames, problems)));
    let few_instructions = "the verifier visits as few instructions as before";
    let visited = verifier::check(workspace, &object, bless);
    tally.record(visited.and_then(|problems| check(few_instructions, problems)));
}

/// Turns the problems that a check found into its result.
fn check(rule: &str, problems: Vec<String>) -> Result<()> {
    ensure!(
        problems.is_empty(),
        "tidy: not so: {rule}\n  {}",
        problems.join("\n  ")
    );
    println!("tidy: {rule}");
    Ok(())
}
