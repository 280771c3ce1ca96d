//! Finds libdpdk, compiles the shim and generates the bindings; when something is missing, says which
//! package to install.

use std::env;
use std::panic;
use std::path::PathBuf;
use std::process::exit;

/// What one package needs to be called on the systems people build on.
const NEED_DPDK: &str = "libdpdk was not found by pkg-config. Install DPDK 22.11 or later with its headers:\n\
     \x20 Debian, Ubuntu:  apt-get install libdpdk-dev\n\
     \x20 Fedora, RHEL:    dnf install dpdk-devel\n\
     A DPDK of your own: put the directory of libdpdk.pc into PKG_CONFIG_PATH.";
const NEED_PKG_CONFIG: &str = "pkg-config was not found. Install it:\n\
     \x20 Debian, Ubuntu:  apt-get install pkg-config\n\
     \x20 Fedora, RHEL:    dnf install pkgconf-pkg-config";
const NEED_LIBCLANG: &str = "libclang was not found; the bindings are generated with it. Install it:\n\
     \x20 Debian 12:       apt-get install libclang-14-dev\n\
     \x20 Debian, Ubuntu:  apt-get install libclang-dev\n\
     \x20 Fedora, RHEL:    dnf install clang-devel\n\
     In another place: set LIBCLANG_PATH to the directory of libclang.so.";

/// The functions taken as they are; all others come through the shim.
const FUNCTIONS: &[&str] = &[
    "sluice_.*",
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_version",
    "rte_strerror",
    "rte_dev_probe",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_ring_free",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_is_removed",
    "rte_eth_dev_get_mtu",
    "rte_eth_stats_reset",
];

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");

    let dpdk = match pkg_config::Config::new().atleast_version("22.11").cargo_metadata(true).probe("libdpdk")
    {
        Ok(library) => library,
        Err(pkg_config::Error::Command { command, cause })
            if cause.kind() == std::io::ErrorKind::NotFound =>
        {
            fail(NEED_PKG_CONFIG, &format!("{command}: {cause}"))
        }
        Err(error) => fail(NEED_DPDK, &error.to_string()),
    };

    let cflags = cflags(&dpdk);
    let mut cc = cc::Build::new();
    cc.file("csrc/shim.c").std("gnu11").warnings(true).flag_if_supported("-Wno-unused-parameter");
    // Without this the debug profile would compile the burst calls unoptimised.
    if env::var("OPT_LEVEL").is_ok_and(|level| level == "0" || level == "1") {
        cc.opt_level(2);
    }
    for flag in &cflags {
        cc.flag(flag);
    }
    if let Err(error) = cc.try_compile("sluice_dpdk_shim") {
        fail("the C shim over DPDK did not compile (tested with DPDK 22.11).", &error.to_string());
    }
    // The shim is static and comes before the libraries it needs on the linker's line: name those again.
    for lib in ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"] {
        println!("cargo:rustc-link-lib={lib}");
    }
    println!("cargo:version={}", dpdk.version);
    generate(&cflags);
}

/// The flags of libdpdk.pc that are not include paths or defines (pkg-config parses those away), and the
/// processor baseline: the DPDK headers want at least SSE4.2, and inline code follows the Rust side.
fn cflags(dpdk: &pkg_config::Library) -> Vec<String> {
    let mut flags: Vec<String> =
        dpdk.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    for (name, value) in &dpdk.defines {
        flags.push(value.as_ref().map_or_else(|| format!("-D{name}"), |value| format!("-D{name}={value}")));
    }
    flags.extend(["-include".to_owned(), "rte_config.h".to_owned()]);
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
        let avx2 = features.split(',').any(|feature| feature == "avx2");
        flags.push(if avx2 { "-march=x86-64-v3" } else { "-march=x86-64-v2" }.to_owned());
    }
    flags
}

fn generate(cflags: &[String]) {
    // bindgen panics when it cannot load libclang; its message does not name a package.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let clang = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    if let Err(cause) = clang {
        let cause = cause.downcast_ref::<String>().cloned().unwrap_or_default();
        fail(NEED_LIBCLANG, &cause);
    }

    let mut builder = bindgen::Builder::default()
        .header("csrc/shim.h")
        .clang_args(cflags)
        .allowlist_var("SLUICE_.*")
        .allowlist_type("sluice_.*")
        .opaque_type("rte_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(true)
        .derive_default(true)
        .generate_comments(false)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail("the bindings to DPDK could not be generated.", &error.to_string()),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail("the bindings to DPDK could not be written.", &format!("{}: {error}", out.display()));
    }
}

/// Ends the build with advice first and the cause after it.
fn fail(advice: &str, cause: &str) -> ! {
    println!("cargo:warning={}", advice.lines().next().unwrap_or_default());
    eprintln!("\n{advice}\n\nCause:\n{cause}\n");
    exit(1)
}
