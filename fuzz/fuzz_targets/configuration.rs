//! Configurations of domains: text from a file, and overrides from the command line.
#![no_main]

use dom0::config;
use libfuzzer_sys::fuzz_target;
use protocol::event::MAX_VCPUS;

fuzz_target!(|text: &str| {
    // Overrides follow the file, each after a character that no file holds.
    let mut parts = text.split('\x1e');
    let file = parts.next().unwrap_or_default();
    let overrides: Vec<String> = parts.map(String::from).collect();
    match config::parse("config/web.toml", file, &overrides) {
        Ok(parsed) => {
            let config = parsed.config;
            assert!(config.max_pages >= config.memory_pages);
            assert!((1..=MAX_VCPUS as u32).contains(&config.vcpus));
            assert_eq!(config::name_fault(&config.name), None);
            show(&parsed.warnings);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            show(&problems);
        }
    }
});

/// What a problem says has to be readable whatever the file said.
fn show(problems: &[config::Problem]) {
    for problem in problems {
        let text = problem.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
