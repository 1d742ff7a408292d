//! Child processes.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Runs `command` with our own input and output; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// What `command` printed; anything but success is an error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", line(command)))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        line(command),
        output.status
    );
    Ok(output.stdout)
}

/// A command without what `cargo run` told us about xtask. Some build scripts watch those
/// variables, and would run again whenever xtask and a cargo typed by hand take turns.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let names = env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_str().is_some_and(is_about_a_package)) {
        command.env_remove(name);
    }
    command
}

fn is_about_a_package(variable: &str) -> bool {
    let prefixes = ["CARGO_MANIFEST_", "CARGO_PKG_"];
    prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether this process may do as it likes; the owner of its `/proc` entry is its effective user.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_do_not_learn_that_cargo_runs_xtask() {
        // Cargo sets it for tests as it does for `cargo run`.
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some());
        let printed = output(&mut clean("env")).unwrap();
        let variables = String::from_utf8_lossy(&printed);
        assert!(variables.contains("PATH="));
        assert!(!variables.lines().any(is_about_a_package), "{variables}");
    }

    #[test]
    fn failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(
            error.to_string().starts_with("sh -c exit 3 failed: "),
            "{error}"
        );
    }
}
