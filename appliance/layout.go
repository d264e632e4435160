package appliance

// Where things are in a running appliance. Everything that outlives a reboot is below
// DataDir, the encrypted partition; everything else is in memory, and read-only but for RunDir.
const (
	DataDir      = "/data"
	MachineDir   = DataDir + "/machine"   // the machine's own: root's, mode 0700
	ControlState = DataDir + "/lazaret"   // `state` of lazaretd.toml
	PlaneState   = DataDir + "/dataplane" // `dataplane.state`
	ConfigDir    = DataDir + "/config"    // readable by all
	ConfigPath   = ConfigDir + "/lazaretd.toml"
	NetworkPath  = ConfigDir + "/network.yaml" // Network, as confirmed last
	CrashDir     = MachineDir + "/crash"       // what the kernel left behind when it died
	ESPDir       = "/esp"                      // the EFI system partition, mounted while it is written

	BuiltPath = "/etc/lazaret/built" // when the image was built (RFC 3339); the clock is never before

	RunDir        = "/run/lazaret"               // the data plane's sockets and public key: its own
	MachineRun    = "/run/machine"               // the machine's own
	MachineSocket = MachineRun + "/machine.sock" // where the control plane asks the machine (package machine)
	ResolvConf    = MachineRun + "/resolv.conf"  // /etc/resolv.conf points here
)

// Users of the processes the machine runs; there are no others but root, which is the
// machine's own process (number 1).
const (
	ControlUser = 901 // lazaretd serve
	PlaneUser   = 902 // lazaretd dataplane: CAP_NET_ADMIN
	ClaimUser   = 903 // the page and protocol by which an unclaimed machine is claimed
)

// Partitions are found by these names (GPT partition names).
const (
	ESPName  = "lazaret-esp"
	DataName = "lazaret-data"
)

// SlotDir is where the boot loader looks for slots on the EFI system partition
// (Boot Loader Specification, type 2).
const SlotDir = "EFI/Linux"
