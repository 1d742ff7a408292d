//! Makes an episode on which programs and model disagree as small as it goes.

use super::{
    Disagreement, Rig,
    episode::{Episode, Step},
    replay,
};

/// Tries, at most: some hundred milliseconds.
const TRIES: usize = 600;

struct Shrinker<'a> {
    rig: &'a mut Rig,
    best: Episode,
    disagreement: Disagreement,
    tries: usize,
}

/// The smallest episode that was found, and what it is about.
pub(super) fn shrink(
    rig: &mut Rig,
    episode: Episode,
    disagreement: Disagreement,
) -> (Episode, Disagreement) {
    let mut shrinker = Shrinker {
        rig,
        best: episode,
        disagreement,
        tries: 0,
    };
    shrinker.drop_steps();
    shrinker.drop_services();
    shrinker.simplify_services();
    shrinker.shorten_frames();
    shrinker.drop_steps();
    (shrinker.best, shrinker.disagreement)
}

impl Shrinker<'_> {
    /// Takes an episode that is smaller, if it still shows a disagreement.
    fn take(&mut self, episode: Episode) -> bool {
        if self.tries >= TRIES {
            return false;
        }
        self.tries += 1;
        match replay(self.rig, &episode) {
            Ok(()) => false,
            Err(disagreement) => {
                self.best = episode;
                self.disagreement = disagreement;
                true
            }
        }
    }

    /// Drops stretches of steps, ever shorter ones, from the end on.
    fn drop_steps(&mut self) {
        let mut len = self.best.steps.len().div_ceil(2).max(1);
        loop {
            let mut end = self.best.steps.len();
            while end > 0 {
                let start = end.saturating_sub(len);
                let mut episode = self.best.clone();
                episode.steps.drain(start..end);
                self.take(episode);
                end = start;
            }
            if len == 1 {
                return;
            }
            len = len.div_ceil(2);
        }
    }

    /// Drops Services, everywhere at once.
    fn drop_services(&mut self) {
        let numbers: Vec<u8> = self.best.services.iter().map(|s| s.number).collect();
        for number in numbers {
            let mut episode = self.best.clone();
            for services in all_services(&mut episode) {
                services.retain(|service| service.number != number);
            }
            self.take(episode);
        }
    }

    /// Drops what Services have: pods, ports, and properties.
    fn simplify_services(&mut self) {
        for index in 0..self.best.services.len() {
            for pod in (0..self.best.services[index].pods.len()).rev() {
                let mut episode = self.best.clone();
                episode.services[index].pods.remove(pod);
                self.take(episode);
            }
            for port in (0..self.best.services[index].ports.len()).rev() {
                let mut episode = self.best.clone();
                episode.services[index].ports.remove(port);
                self.take(episode);
            }
            for property in 0..7 {
                let mut episode = self.best.clone();
                let service = &mut episode.services[index];
                match property {
                    0 => service.external = false,
                    1 => service.balanced = false,
                    2 => service.inside_local = false,
                    3 => service.outside_local = false,
                    4 => service.affinity = false,
                    5 => service.random = false,
                    _ => service.ranges.clear(),
                }
                if episode != self.best {
                    self.take(episode);
                }
            }
        }
    }

    /// Cuts frames off at their ends.
    fn shorten_frames(&mut self) {
        for index in 0..self.best.steps.len() {
            for cut in [64, 16, 4, 1] {
                loop {
                    let mut episode = self.best.clone();
                    let Step::Packet { frame, .. } = &mut episode.steps[index] else {
                        break;
                    };
                    if frame.len() < 14 + cut {
                        break;
                    }
                    frame.truncate(frame.len() - cut);
                    if !self.take(episode) {
                        break;
                    }
                }
            }
        }
    }
}

fn all_services(episode: &mut Episode) -> impl Iterator<Item = &mut Vec<super::Served>> {
    let later = episode.steps.iter_mut().filter_map(|step| match step {
        Step::Serve(services) => Some(services),
        _ => None,
    });
    std::iter::once(&mut episode.services).chain(later)
}
