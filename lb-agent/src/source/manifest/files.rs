//! The files that were read last, and what they last said that made sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    path::{Path, PathBuf},
};

use super::{
    Error,
    assemble::assemble,
    document::{self, Parsed, Place},
    parse::{self, SyntaxError},
};
use crate::source::{self, Rejection, Role, Sender};

/// Appended to the reason of what did not replace an earlier state.
const KEPT: &str = "what it said before stays in force";

/// All manifests.
#[derive(Debug)]
pub(super) struct Files {
    role: Role,
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Why the path itself could not be read last.
    problem: Option<Rejection>,
}

/// One file.
#[derive(Debug, Default)]
struct File {
    text: String,
    objects: Vec<Parsed>,
    /// Why the file could not be read or parsed last.
    problem: Option<Rejection>,
}

impl Files {
    /// Reads everything for the first time.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if the path cannot be read, [`Error::Parse`] if it is one file and cannot
    /// be parsed.
    pub(super) fn open(path: PathBuf, role: Role) -> Result<Self, Error> {
        let mut files = Self {
            role,
            path,
            files: BTreeMap::new(),
            problem: None,
        };
        files.read().map_err(|source| Error::Read {
            path: files.path.clone(),
            source,
        })?;
        match files
            .files
            .get_mut(&files.path)
            .map(|file| file.problem.take())
        {
            Some(Some(problem)) => Err(Error::Parse(problem)),
            _ => Ok(files),
        }
    }

    /// Takes `text` for the only file there is.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, if it cannot be parsed.
    pub(super) fn from_text(text: String, role: Role) -> Result<Self, Rejection> {
        let path = PathBuf::from("-");
        let mut file = File::default();
        file.update(&path, Ok(text), &role);
        match file.problem.take() {
            Some(problem) => Err(problem),
            None => Ok(Self {
                role,
                files: BTreeMap::from([(path.clone(), file)]),
                path,
                problem: None,
            }),
        }
    }

    /// Reads everything again.
    pub(super) fn reload(&mut self) {
        self.problem = self.read().err().map(|error| {
            Rejection::of_file(self.path.display().to_string(), format!("{error}; {KEPT}"))
        });
    }

    /// Publishes what the files say.
    pub(super) fn publish(&self, sender: &Sender) {
        let objects = self.files.iter().flat_map(|(path, file)| {
            let objects = file.objects.iter();
            objects.map(move |object| (path.as_path(), object))
        });
        let (model, mut rejections) = assemble(objects, &self.role);
        let problems = self.files.values().filter_map(|file| file.problem.as_ref());
        rejections.extend(self.problem.iter().chain(problems).cloned());
        source::publish_anew(sender, model, rejections);
    }

    /// Where the files really are, if they are symbolic links out of their directory.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let real = self
            .files
            .keys()
            .filter_map(|path| path.canonicalize().ok());
        let directories: BTreeSet<PathBuf> = real
            .filter_map(|path| path.parent().map(Path::to_owned))
            .collect();
        directories.into_iter().collect()
    }

    // Manifests are small, local and rarely read, so this blocks.
    fn read(&mut self) -> io::Result<()> {
        let Self {
            role, path, files, ..
        } = self;
        if fs::metadata(&*path)?.is_dir() {
            let paths = list(path)?;
            files.retain(|path, _| paths.contains(path));
            for path in paths {
                let text = fs::read_to_string(&path);
                let file = files.entry(path.clone()).or_default();
                file.update(&path, text, role);
            }
        } else {
            let text = fs::read_to_string(&*path)?;
            files.retain(|file, _| file == path);
            let file = files.entry(path.clone()).or_default();
            file.update(path, Ok(text), role);
        }
        Ok(())
    }
}

/// The manifests in a directory.
fn list(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            paths.insert(path);
        }
    }
    Ok(paths)
}

fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_hidden = name.is_none_or(|name| name.starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

impl File {
    /// Takes what was read; keeps what it said before if that makes no sense.
    fn update(&mut self, path: &Path, text: io::Result<String>, role: &Role) {
        match text {
            Ok(text) if text == self.text && self.problem.is_none() => {}
            Ok(text) => match parse::documents(&text) {
                Ok(documents) => {
                    let documents = documents.into_iter();
                    let objects = documents.flat_map(|document| document::objects(document, role));
                    self.replace(path, text, objects.collect());
                }
                Err(error) => self.problem = Some(self.syntax_problem(path, error)),
            },
            Err(error) => {
                let reason = self.or_kept(format!("cannot be read: {error}"));
                self.problem = Some(Rejection::of_file(path.display().to_string(), reason));
            }
        }
    }

    /// Takes new objects, unless it cannot be told which objects some of them are.
    fn replace(&mut self, path: &Path, text: String, objects: Vec<Parsed>) {
        let nameless = objects
            .iter()
            .find(|object| object.identity.1.name.is_empty());
        if let Some(Parsed {
            place, rejections, ..
        }) = nameless
        {
            let rejection = rejections.first().cloned();
            self.problem = rejection.map(|rejection| Rejection {
                reason: self.or_kept(rejection.reason.clone()),
                ..place_rejection(path, *place, rejection)
            });
            return;
        }
        let before = mem::replace(&mut self.objects, objects);
        keep_good(before, &mut self.objects);
        self.text = text;
        self.problem = None;
    }

    fn syntax_problem(&self, path: &Path, error: SyntaxError) -> Rejection {
        let SyntaxError {
            document,
            position,
            reason,
        } = error;
        let position = position.map(|(line, column)| format!("line {line}, column {column}"));
        let object = format!("{}, document {document}", path.display());
        Rejection {
            field: position.unwrap_or_default(),
            ..Rejection::of_file(object, self.or_kept(reason))
        }
    }

    /// Says what becomes of a file that cannot be used.
    fn or_kept(&self, reason: String) -> String {
        if self.objects.is_empty() {
            format!("{reason}; nothing of the file is used until that is corrected")
        } else {
            format!("{reason}; {KEPT}")
        }
    }
}

/// Lets what an object said before stay in force while something in it is wrong.
fn keep_good(before: Vec<Parsed>, now: &mut [Parsed]) {
    let mut good: BTreeMap<_, _> = before
        .into_iter()
        .filter(|object| object.rejections.is_empty() || object.is_kept)
        .filter_map(|object| Some((object.identity, object.item?)))
        .collect();
    for object in now
        .iter_mut()
        .filter(|object| !object.rejections.is_empty())
    {
        let Some(item) = good.remove(&object.identity) else {
            continue;
        };
        object.item = Some(item);
        object.is_kept = true;
        for rejection in &mut object.rejections {
            rejection.reason = format!("{}; {KEPT}", rejection.reason);
        }
    }
}

/// Says in which file and document a rejected object stands.
pub(super) fn place_rejection(path: &Path, place: Place, rejection: Rejection) -> Rejection {
    Rejection {
        object: format!("{}, {place}: {}", path.display(), rejection.object),
        ..rejection
    }
}
