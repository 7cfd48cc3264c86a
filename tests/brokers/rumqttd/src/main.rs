//! A broker made of the library rumqttd, with the configuration that is named.

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let file = std::env::args().nth(1).expect("the path of a configuration");
    let text = std::fs::read_to_string(file).expect("a file");
    let config: rumqttd::Config = toml::from_str(&text).expect("rumqttd's configuration");
    rumqttd::Broker::new(config).start().expect("a port");
}
