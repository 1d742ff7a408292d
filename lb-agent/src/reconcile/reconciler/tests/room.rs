//! What there is no room for.

use super::*;

#[test]
fn a_service_without_room_is_rejected_by_name_and_the_others_go_on() {
    let mut reconciler = Reconciler::new(Memory::new(64, 64, 600), SEED).unwrap();
    let now = Instant::now();
    let small = [sample(0, [1])];
    assert_eq!(
        reconciler
            .reconcile(&model(&small), &node(), now)
            .unwrap()
            .rejections,
        []
    );
    let served = answers(&reconciler.dataplane);
    let both = [sample(0, [1]), sample(1, 1..9)];
    let outcome = reconciler.reconcile(&model(&both), &node(), now).unwrap();
    let [rejection] = &outcome.rejections[..] else {
        panic!("one rejection, not {:?}", outcome.rejections);
    };
    assert!(
        rejection.object.contains("default/service-1"),
        "{rejection}"
    );
    assert!(rejection.reason.contains("--slots-max"), "{rejection}");
    assert_eq!(answers(&reconciler.dataplane), served);
}

#[test]
fn a_full_map_of_frontends_takes_no_half_service() {
    let mut reconciler = Reconciler::new(Memory::new(2, 64, 1 << 14), SEED).unwrap();
    let mut wide = sample(0, [1]);
    wide.node_port = true;
    let outcome = reconciler
        .reconcile(&model(&[wide, sample(1, [1])]), &node(), Instant::now())
        .unwrap();
    assert_eq!(outcome.rejections.len(), 1);
    let keys: Vec<_> = reconciler.dataplane.maps().frontends.keys().collect();
    assert_eq!(keys, [&FrontendKey::new(cluster_ip(1).into(), 80, 6)]);
}

#[test]
fn a_service_that_outgrows_the_map_of_backends_goes_on_with_those_it_has() {
    let mut reconciler = Reconciler::new(Memory::new(64, 3, 1 << 14), SEED).unwrap();
    let now = Instant::now();
    let fits = [sample(0, [1, 2]), sample(1, [1])];
    let outcome = reconciler.reconcile(&model(&fits), &node(), now).unwrap();
    assert_eq!(outcome.rejections, []);
    let before = answers(&reconciler.dataplane);
    let too_many = [sample(0, [1, 2, 3]), sample(1, [1])];
    for _ in 0..2 {
        let outcome = reconciler
            .reconcile(&model(&too_many), &node(), now)
            .unwrap();
        assert_eq!(outcome.rejections.len(), 1);
        assert!(outcome.rejections[0].reason.contains("--backends-max"));
        assert_eq!(answers(&reconciler.dataplane), before);
    }
    let other_goes = [sample(0, [1, 2, 3])];
    for _ in 0..2 {
        reconciler
            .reconcile(&model(&other_goes), &node(), now)
            .unwrap();
    }
    let addrs: BTreeSet<_> = served(&reconciler.dataplane)
        .into_values()
        .flatten()
        .collect();
    assert_eq!(addrs.len(), 3, "room that came free is used");
}

#[test]
fn what_is_rejected_again_and_again_uses_up_nothing() {
    let mut reconciler = Reconciler::new(Memory::new(1, 64, 1 << 10), SEED).unwrap();
    let start = Instant::now();
    let rejected = [sample(0, [1]), sample(1, [1])];
    for turn in 0..100 {
        let now = start + Duration::from_secs(2) * turn;
        let outcome = reconciler
            .reconcile(&model(&rejected), &node(), now)
            .unwrap();
        assert!(outcome.no_room);
    }
    let changed = [sample(0, [2, 3]), sample(1, [1])];
    let now = start + Duration::from_secs(1000);
    let outcome = reconciler
        .reconcile(&model(&changed), &node(), now)
        .unwrap();
    assert_eq!(outcome.rejections.len(), 1, "{:?}", outcome.rejections);
    let addrs = served(&reconciler.dataplane).into_values().next().unwrap();
    assert_eq!(addrs.len(), 2);
}
