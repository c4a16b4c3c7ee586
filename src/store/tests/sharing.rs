//! Several threads and processes at one store.

use super::*;

#[test]
fn a_lock_is_held_by_one_at_a_time() {
    let f = Fixture::new();
    let other = f.reopened();
    let held = f.store.lock(&key("a")).unwrap();
    assert!(other.try_lock(&key("a")).unwrap().is_none());
    assert!(other.try_lock(&key("b")).unwrap().is_some());
    let waiting = std::thread::spawn(move || other.lock(&key("a")).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(held);
    drop(waiting.join().unwrap());
    assert_eq!(f.names_in("locks"), [""; 0]);
}

#[test]
fn many_who_want_one_lock_get_it_one_by_one() {
    let f = Fixture::new();
    let counter = f.root().join("counter");
    std::fs::write(&counter, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _lock = f.store.lock(&key("counter")).unwrap();
                    let count: u32 = std::fs::read_to_string(&counter).unwrap().parse().unwrap();
                    std::fs::write(&counter, (count + 1).to_string()).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "400");
}

#[test]
fn threads_and_processes_share_a_store() {
    let f = Fixture::new();
    let stores = [f.store.clone(), f.store.clone(), f.reopened(), f.reopened()];
    std::thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..20 {
                    let blob = store.put_blob(format!("blob {round}").as_bytes()).unwrap();
                    let new = NewLayer {
                        chain_id: Some(ChainId(digest(&format!("chain {round}")))),
                        plain_blob: Some(blob),
                        ..NewLayer::default()
                    };
                    let layer = store.create_layer(&new).unwrap();
                    store
                        .new_tree(&Form::root())
                        .unwrap()
                        .commit(layer)
                        .unwrap();
                    let record = CacheRecord {
                        layer: Some(layer),
                        created: time(number as i64),
                    };
                    store
                        .record(&key(&format!("step {round}")), &record)
                        .unwrap();
                }
            });
        }
    });
    let layers: i64 = f
        .sql()
        .query_row("SELECT count(*) FROM layers", [], |row| row.get(0))
        .unwrap();
    assert_eq!(layers, 20);
}
