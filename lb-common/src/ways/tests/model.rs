//! How a few operations can meet on small buckets: all ways with two to four changes from one thread to another before it
//! has to be (loom).

use std::{sync::Arc, vec, vec::Vec};

use loom::{
    model::Builder,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
        fence,
    },
    thread,
};

use super::super::*;

/// A bucket with records of two words.
struct Bucket<const WAYS: usize> {
    words: [AtomicU64; WAYS],
    records: [[AtomicU64; 2]; WAYS],
}

impl<const WAYS: usize> Words<WAYS> for Bucket<WAYS> {
    fn word(&self, way: usize) -> Word {
        Word(self.words[way].load(Acquire))
    }

    fn exchange(&self, way: usize, from: Word, to: Word) -> bool {
        fence(SeqCst);
        let result = self.words[way].compare_exchange(from.0, to.0, SeqCst, SeqCst);
        fence(SeqCst);
        result.is_ok()
    }

    fn store(&self, way: usize, _: Word, to: Word) -> bool {
        self.words[way].store(to.0, Release);
        true
    }
}

impl<const WAYS: usize> Bucket<WAYS> {
    fn new() -> Self {
        Self {
            words: array::from_fn(|_| AtomicU64::new(0)),
            records: array::from_fn(|_| array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    fn write(&self, way: usize, tag: u32) {
        for word in &self.records[way] {
            word.store(tag.into(), Relaxed);
        }
    }

    fn read(&self, way: usize) -> [u64; 2] {
        self.records[way].each_ref().map(|word| word.load(Relaxed))
    }
}

/// What one of the threads does.
#[derive(Clone, Copy, Debug)]
enum Do {
    Insert(u32),
    Remove(u32),
    /// Makes it older than any that is inserted.
    Touch(u32),
    /// Looks up, and compares the record with the tag.
    Read(u32),
}

/// What has been done: records that were published, displaced, and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    published: usize,
    displaced: usize,
    removed: usize,
}

fn perform<const WAYS: usize>(bucket: &Bucket<WAYS>, what: Do) -> Done {
    let mut done = Done::default();
    match what {
        Do::Insert(tag) => {
            let write = |way| bucket.write(way, tag);
            let insertion = insert(bucket, Tag(tag), 5, Displace::First, write);
            done.published = insertion.result.is_ok().into();
            done.displaced = insertion.has_displaced.into();
        }
        Do::Remove(tag) => {
            let found = find(bucket, Tag(tag));
            let is_removed = found.is_some_and(|(way, word)| remove(bucket, way, word));
            done.removed = is_removed.into();
        }
        Do::Touch(tag) => {
            if let Some((way, word)) = find(bucket, Tag(tag)) {
                touch(bucket, way, word, 3);
            }
        }
        Do::Read(tag) => {
            if let Some((way, word)) = find(bucket, Tag(tag)) {
                let record = bucket.read(way);
                fence(Acquire);
                if bucket.word(way) == word {
                    assert_eq!(record, [u64::from(tag); 2], "half of another one's record");
                }
            }
        }
    }
    done
}

/// Lets each thread do what its list says, after `before`, in every order, with so many changes from one thread to
/// another where it was not done. What is there at the end is what was inserted, without what has gone, and
/// nothing twice. `check` is told of all threads, in turn.
fn explore<const WAYS: usize>(
    before: &[Do],
    threads: &[&[Do]],
    changes: usize,
    check: fn(&[Done]),
) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(changes);
    let before = before.to_vec();
    let threads: Vec<Vec<Do>> = threads.iter().map(|list| list.to_vec()).collect();
    builder.check(move || {
        let bucket = Arc::new(Bucket::<WAYS>::new());
        let mut all: Vec<Done> = before.iter().map(|what| perform(&bucket, *what)).collect();
        let begin = |list: &Vec<Do>| {
            let (bucket, list) = (bucket.clone(), list.clone());
            thread::spawn(move || {
                let done = |what: &Do| perform(&bucket, *what);
                list.iter().map(done).collect::<Vec<Done>>()
            })
        };
        let begun: Vec<_> = threads.iter().map(begin).collect();
        let mut last = vec![];
        for thread in begun {
            last.extend(thread.join().expect("thread"));
        }
        check(&last);
        all.extend(last);
        settle(&bucket, &all);
    });
}

/// Holds what a bucket has against what was done.
fn settle<const WAYS: usize>(bucket: &Bucket<WAYS>, done: &[Done]) {
    let mut tags = vec![];
    for way in 0..WAYS {
        let word = bucket.word(way);
        assert!(!word.is_claimed(), "a claim is left: {word:?}");
        if word.is_published() {
            assert_eq!(bucket.read(way), [u64::from(word.tag()); 2]);
            tags.push(word.tag());
        }
    }
    let sum = |count: fn(&Done) -> usize| done.iter().map(count).sum::<usize>();
    let gone = sum(|done| done.displaced) + sum(|done| done.removed);
    assert_eq!(sum(|done| done.published), gone + tags.len(), "{tags:?}");
    let len = tags.len();
    tags.sort_unstable();
    tags.dedup();
    assert_eq!(tags.len(), len, "a tag stands twice");
}

fn anything(_: &[Done]) {}

fn one_is_published(done: &[Done]) {
    let published: usize = done.iter().map(|done| done.published).sum();
    assert_eq!(published, 1);
}

use Do::{Insert, Read, Remove, Touch};

#[test]
fn of_two_that_insert_the_same_one_succeeds() {
    explore::<2>(&[], &[&[Insert(1)], &[Insert(1)]], 3, one_is_published);
}

/// The second one frees the way that was touched, which it prefers since that is older; the first one meanwhile
/// takes the other.
#[test]
fn of_two_that_insert_the_same_in_different_ways_one_succeeds() {
    let higher = &[Insert(8), Insert(9), Touch(9), Remove(8)];
    let threads: &[&[Do]] = &[&[Insert(1)], &[Remove(9), Insert(1)]];
    explore::<2>(higher, threads, 4, one_is_published);
    let lower = &[Insert(8), Insert(9), Touch(8), Remove(9)];
    let threads: &[&[Do]] = &[&[Insert(1)], &[Remove(8), Insert(1)]];
    explore::<2>(lower, threads, 4, one_is_published);
}

#[test]
fn of_three_that_insert_the_same_in_different_ways_one_succeeds() {
    let threads: &[&[Do]] = &[
        &[Insert(1)],
        &[Remove(8), Insert(1)],
        &[Remove(9), Insert(1)],
    ];
    let before = &[
        Insert(7),
        Insert(8),
        Insert(9),
        Touch(8),
        Touch(9),
        Remove(7),
    ];
    explore::<3>(before, threads, 2, one_is_published);
}

#[test]
fn nothing_is_lost_or_doubled_where_records_displace_each_other() {
    let threads: &[&[Do]] = &[&[Insert(1), Insert(2)], &[Insert(2), Insert(1)]];
    explore::<1>(&[], threads, 3, anything);
    explore::<2>(&[Insert(3)], threads, 3, anything);
}

#[test]
fn nothing_is_lost_or_doubled_where_a_record_is_removed_and_inserted() {
    explore::<2>(
        &[Insert(1)],
        &[&[Remove(1), Insert(1)], &[Insert(1), Remove(1)]],
        3,
        anything,
    );
    explore::<2>(
        &[Insert(1), Insert(2)],
        &[&[Insert(3)], &[Remove(1)], &[Insert(3)]],
        2,
        anything,
    );
}

#[test]
fn reader_sees_whole_records_only() {
    explore::<1>(
        &[Insert(1)],
        &[&[Insert(2), Insert(1)], &[Read(1)]],
        3,
        anything,
    );
    explore::<2>(
        &[Insert(1)],
        &[&[Remove(1), Insert(2)], &[Read(1)]],
        2,
        anything,
    );
}

#[test]
fn touch_brings_nothing_back() {
    explore::<1>(
        &[Insert(1)],
        &[&[Touch(1)], &[Insert(2)], &[Remove(1)]],
        2,
        anything,
    );
}

#[test]
fn nobody_is_displaced_while_there_is_room() {
    let none_is_displaced = |done: &[Done]| {
        let all_are_there = Done {
            published: 1,
            ..Done::default()
        };
        assert!(done.iter().all(|done| *done == all_are_there), "{done:?}");
    };
    explore::<2>(&[], &[&[Insert(1)], &[Insert(2)]], 4, none_is_displaced);
    explore::<3>(
        &[],
        &[&[Insert(1)], &[Insert(2)], &[Insert(3)]],
        2,
        none_is_displaced,
    );
}
