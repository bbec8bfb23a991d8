//! Small bounds, to the end, in seconds: part of every build. The large ones are `make model`.

use synod_model::bounds::named;
use synod_model::report::{How, search};

#[test]
fn small_models_hold() {
    let models =
        ["crash:e=0", "crash:c=0", "crash:p=0", "reconfigure:e=0", "reconfigure:p=0", "swap:e=0", "shrink:e=0"];
    let models = models.into_iter().chain(["pre-vote:d=1", "left:e=0", "left:p=0"]);
    for name in models {
        let bounds = named(name).expect("a model of this name");
        println!("{name}: {:?}", bounds.budget);
        let found = search(bounds, How::default());
        print!("{}", found.table());
        assert!(found.complete && found.missing.is_empty(), "{}", found.table());
    }
}
