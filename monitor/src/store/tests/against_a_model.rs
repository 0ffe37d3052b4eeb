//! The store against a flat map, with transactions between the requests: whatever commits is as if it had been done at once.

use super::*;
use proptest::prelude::*;

type Model = BTreeMap<String, String>;

#[derive(Clone, Debug)]
enum Request {
    Read(String),
    List(String),
    Write(String, u8),
    Make(String),
    Remove(String),
}

use Request::*;

impl Request {
    fn encode(&self) -> (u32, String) {
        match self {
            Read(path) => (kind::READ, format!("{path}\0")),
            List(path) => (kind::DIRECTORY, format!("{path}\0")),
            Write(path, value) => (kind::WRITE, format!("{path}\0{value}")),
            Make(path) => (kind::MKDIR, format!("{path}\0")),
            Remove(path) => (kind::RM, format!("{path}\0")),
        }
    }

    /// What a map of all nodes becomes by it, and what it answers.
    fn apply(&self, model: &mut Model) -> Result<String, String> {
        match self {
            Read(path) => model.get(path).cloned().ok_or("ENOENT".into()),
            List(path) if !model.contains_key(path) => Err("ENOENT".into()),
            List(path) => {
                let names = model.keys().filter_map(|key| key.strip_prefix(path.as_str())?.strip_prefix('/'));
                Ok(names.filter(|name| !name.contains('/')).map(|name| format!("{name}\0")).collect())
            }
            Write(path, value) => {
                Make(path.clone()).apply(model)?;
                model.insert(path.clone(), format!("{value}"));
                done()
            }
            Make(path) => {
                for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
                    model.entry(path[..end].into()).or_default();
                }
                done()
            }
            Remove(path) => {
                if path.rsplit_once('/').is_some_and(|(parent, _)| !model.contains_key(parent)) {
                    return Err("ENOENT".into());
                }
                let below = format!("{path}/");
                model.retain(|key, _| key != path && !key.starts_with(&below));
                done()
            }
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let path = "[ab](/[ab]){0,2}";
    prop_oneof![
        path.prop_map(Read),
        path.prop_map(List),
        (path, any::<u8>()).prop_map(|(path, value)| Write(path, value)),
        path.prop_map(Make),
        path.prop_map(Remove),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Ask(usize, Request),
    End(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Begin),
        8 => (0..4usize, request()).prop_map(|(which, request)| Step::Ask(which, request)),
        1 => (0..3usize, any::<bool>()).prop_map(|(which, commit)| Step::End(which, commit)),
    ]
}

/// A transaction: what it sees, what it asked for and was told.
struct Open {
    id: u32,
    model: Model,
    began: Model,
    asked: Vec<(Request, Result<String, String>)>,
    /// What was changed meanwhile.
    others: bool,
}

proptest! {
    #[test]
    fn what_commits_could_have_happened_at_once(steps in prop::collection::vec(step(), 1..80)) {
        let (mut guest, mut model, mut open) = (guest(), Model::new(), Vec::<Open>::new());
        for step in steps {
            match step {
                Step::Begin if open.len() < 3 => {
                    let id = guest.begin();
                    open.push(Open { id, model: model.clone(), began: model.clone(), asked: Vec::new(), others: false });
                }
                Step::Begin => {}
                Step::Ask(which, request) => {
                    let (kind, payload) = request.encode();
                    if let Some(transaction) = open.get_mut(which) {
                        let answer = guest.text(kind, transaction.id, &payload);
                        prop_assert_eq!(&answer, &request.apply(&mut transaction.model), "{:?}", &request);
                        transaction.asked.push((request, answer));
                    } else {
                        let before = model.clone();
                        prop_assert_eq!(guest.text(kind, 0, &payload), request.apply(&mut model), "{:?}", request);
                        let writes = before != model || matches!(request, Write(..));
                        open.iter_mut().for_each(|transaction| transaction.others |= writes);
                    }
                }
                Step::End(which, commit) if which < open.len() => {
                    let transaction = open.remove(which);
                    if !commit {
                        prop_assert_eq!(guest.text(kind::TRANSACTION_END, transaction.id, "F\0"), done());
                        continue;
                    }
                    let answer = guest.end(transaction.id);
                    if answer != done() {
                        prop_assert_eq!(answer, refused(Refusal::Again));
                        prop_assert!(transaction.others, "nobody was in its way");
                        continue;
                    }
                    // Without effect, it could have happened when it began.
                    let wrote = transaction.model != transaction.began;
                    for (request, told) in transaction.asked.iter().filter(|_| wrote) {
                        prop_assert_eq!(&request.apply(&mut model), told, "{:?} at the end", request);
                    }
                    open.iter_mut().for_each(|other| other.others = true);
                }
                Step::End(..) => {}
            }
        }
        for (path, value) in &model {
            prop_assert_eq!(guest.read(path), Ok(value.clone()));
        }
    }
}
