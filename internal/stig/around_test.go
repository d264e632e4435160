package stig

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/internal/testneed"
)

// run runs a witness; false: this kernel lacks what it asks for.
func (g *gateway) run(text string) bool {
	g.t.Helper()
	args := strings.Fields(text)
	out, err := exec.Command(testneed.Program(g.t, args[0]), args[1:]...).CombinedOutput()
	for _, lacking := range []string{"kind is unknown", "Operation not supported", "No such file or directory"} {
		if err != nil && strings.Contains(string(out), lacking) {
			g.t.Logf("this kernel cannot: %s", text)
			return false
		}
	}
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return true
}

// TestWaysAroundAreFound gives a gateway with one more interface what moves packets without
// a rule that says so.
func TestWaysAroundAreFound(t *testing.T) {
	testneed.Program(t, "ip")
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	g := newGateway(t)
	if !g.run("ip link add v0 type veth peer name v1") {
		testneed.Skip(t, "there is no veth")
	}
	for _, name := range []string{"all", "default", "v0", "v1"} {
		g.set("net/ipv4/conf/"+name+"/rp_filter", "2")
	}
	g.wants("as it should be", nil)
	for _, w := range []struct {
		seed  []string
		mend  string
		fails map[string]string
	}{
		{[]string{"tc qdisc add dev v0 clsact"}, "tc qdisc del dev v0 clsact", map[string]string{idPrograms: "clsact at v0"}},
		{[]string{"tc qdisc add dev v0 ingress"}, "tc qdisc del dev v0 ingress", map[string]string{idPrograms: "ingress at v0"}},
		{[]string{"tc qdisc add dev v0 root handle 1: htb"}, "tc qdisc del dev v0 root", map[string]string{idPrograms: "htb at v0"}},
		{[]string{"tc qdisc add dev v0 root handle 1: htb", "tc filter add dev v0 parent 1: u32 match u32 0 0 flowid 1:1"},
			"tc qdisc del dev v0 root", map[string]string{idPrograms: "filter u32 of queueing discipline htb at v0"}},
		{[]string{"tc qdisc add dev v0 root handle 1: fq_codel", "tc filter add dev v0 parent 1: u32 match u32 0 0 flowid 1:1"},
			"tc qdisc del dev v0 root", map[string]string{idPrograms: "filter u32 of queueing discipline fq_codel at v0"}},
		{[]string{"tc qdisc add dev v0 root tbf rate 1mbit burst 10k latency 1s"}, "tc qdisc del dev v0 root", nil},
		{[]string{"nft add table inet evil; add flowtable inet evil f { hook ingress priority 0; devices = { v0 }; }"},
			"nft delete table inet evil", map[string]string{"tables.offload": "inet evil f"}},
	} {
		seeded := 0
		for _, s := range w.seed {
			if !g.run(s) {
				break
			}
			seeded++
		}
		if seeded == len(w.seed) {
			g.wants(w.seed[seeded-1], w.fails)
		}
		if seeded > 0 {
			g.run(w.mend)
		}
	}
	g.set("net/ipv4/conf/v0/rp_filter", "0")
	g.wants("the higher of two counts", nil)
	g.set("net/ipv4/conf/all/rp_filter", "0")
	g.wants("no reverse path filter at one interface", map[string]string{"sysctl.rp_filter": "v0: 0"})
	g.set("net/ipv4/conf/all/rp_filter", "1")
	g.wants("mended", nil)
}

// TestFlowtablesAreFound, on kernels too that have none.
func TestFlowtablesAreFound(t *testing.T) {
	var r report
	Config{Proc: t.TempDir()}.others(&r, firewall.Found{Flowtables: []string{"inet evil f"}})
	i := slices.IndexFunc(r.checks, func(c Check) bool { return c.ID == "tables.offload" })
	if c := r.checks[i]; c.Result != Fail || !slices.Contains(c.Found, "inet evil f") || c.Remedy == "" {
		t.Errorf("%+v", c)
	}
}

// TestLegacyTablesAreFound: the names are where the old filters' modules print them.
func TestLegacyTablesAreFound(t *testing.T) {
	for _, x := range []struct {
		file, text string
		want       Result
		word       string
	}{
		{"ip_tables_names", "nat\nfilter\n", Fail, "ip_tables: table filter"},
		{"ip6_tables_names", "mangle\n", Fail, "ip6_tables: table mangle"},
		{"arp_tables_names", "filter\n", Fail, "arp_tables: table filter"},
		{"ip_tables_names", "", Pass, ""}, // the module is there, and empty
		{"other", "filter\n", Pass, ""},
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "thread-self/net"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "thread-self/net", x.file), []byte(x.text), 0o600))
		var r report
		Config{Proc: dir}.legacy(&r)
		if c := r.checks[0]; c.ID != "tables.legacy" || c.Result != x.want || !strings.Contains(strings.Join(c.Found, "\n"), x.word) {
			t.Errorf("%s with %q: %+v", x.file, x.text, c)
		}
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "thread-self/net/ip_tables_names"), 0o700)) // cannot be read
	var r report
	if (Config{Proc: dir}).legacy(&r); r.checks[0].Result != NotChecked {
		t.Errorf("what cannot be read: %+v", r.checks[0])
	}
}

// kernel answers as rtnetlink does.
type kernel map[netlink.HeaderType][]netlink.Message

func (k kernel) Execute(m netlink.Message) ([]netlink.Message, error) {
	if m.Header.Type != unix.RTM_GETTFILTER {
		return k[m.Header.Type], nil
	}
	var list []netlink.Message
	for _, f := range k[m.Header.Type] { // those of one discipline
		if slices.Equal(f.Data[4:8], m.Data[4:8]) && slices.Equal(f.Data[12:16], m.Data[12:16]) {
			list = append(list, f)
		}
	}
	return list, nil
}

func attributes(t *testing.T, do func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	e := netlink.NewAttributeEncoder()
	do(e)
	b, err := e.Encode()
	must(t, err)
	return b
}

// device is an interface in the kernel's words (rtnetlink(7)).
func device(t *testing.T, index uint32, name, kind string, xdp uint8) netlink.Message {
	head := make([]byte, 16)
	binary.NativeEndian.PutUint32(head[4:], index)
	return netlink.Message{Data: append(head, attributes(t, func(e *netlink.AttributeEncoder) {
		e.String(3, name)                                                                       // IFLA_IFNAME
		e.Nested(18, func(e *netlink.AttributeEncoder) error { e.String(1, kind); return nil }) // IFLA_LINKINFO, IFLA_INFO_KIND
		e.Nested(43, func(e *netlink.AttributeEncoder) error { e.Uint8(2, xdp); return nil })   // IFLA_XDP, IFLA_XDP_ATTACHED
	})...)}
}

// object is a queueing discipline or a filter (struct tcmsg).
func object(t *testing.T, index, handle, parent uint32, kind string) netlink.Message {
	head := make([]byte, 20)
	for i, v := range []uint32{index, handle, parent} {
		binary.NativeEndian.PutUint32(head[4+4*i:], v)
	}
	return netlink.Message{Data: append(head, attributes(t, func(e *netlink.AttributeEncoder) { e.String(1, kind) })...)} // TCA_KIND
}

// TestInterfacesAsTold holds the reader of interfaces to what kernels answer that have more
// than the one below the tests.
func TestInterfacesAsTold(t *testing.T) {
	const root = 0xffffffff
	devices := []netlink.Message{device(t, 1, "lo", "", 0), device(t, 2, "eth0", "", 0)}
	for _, x := range []struct {
		name             string
		k                kernel
		programs, linked string // nothing: passes
	}{
		{"plain", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 1, 0, root, "noqueue"), object(t, 2, 0, root, "mq"), object(t, 2, 0, 1, "fq_codel")}}, "", ""},
		{"XDP", kernel{unix.RTM_GETLINK: append(slices.Clone(devices), device(t, 3, "eth1", "", 2))}, "XDP program at eth1", ""},
		{"clsact", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 2, 0xffff0000, 0xfffffff1, "clsact")}}, "clsact at eth0", ""},
		{"classes", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 2, 0x10000, root, "prio")}}, "prio at eth0", ""},
		{"a filter of a named root", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 2, 0x10000, root, "fq_codel")},
			unix.RTM_GETTFILTER: {object(t, 2, 0, 0x10000, "bpf")}}, "filter bpf of queueing discipline fq_codel at eth0", ""},
		{"a filter of the root that nobody named", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 2, 0, root, "fq_codel")},
			unix.RTM_GETTFILTER: {object(t, 2, 0, 0, "bpf")}}, "filter bpf of queueing discipline fq_codel at eth0", ""},
		{"a filter within mq", kernel{unix.RTM_GETLINK: devices, unix.RTM_GETQDISC: {object(t, 2, 0x10000, root, "mq"), object(t, 2, 0x20000, 0x10001, "cake")},
			unix.RTM_GETTFILTER: {object(t, 2, 0, 0x20000, "u32")}}, "filter u32 of queueing discipline cake at eth0", ""},
		{"tcx", kernel{unix.RTM_GETLINK: append(slices.Clone(devices), device(t, 7, "seven", "veth", 0))}, "", "1 BPF programs at seven, tcx egress"},
		{"netkit", kernel{unix.RTM_GETLINK: append(slices.Clone(devices), device(t, 8, "eight", "netkit", 0))}, "", "2 BPF programs at eight, netkit peer"},
	} {
		query := func(index, place uint32) (int, error) {
			return map[[2]uint32]int{{7, 47}: 1, {8, 55}: 2}[[2]uint32{index, place}], nil
		}
		var r report
		Config{query: query}.interfaces(&r, x.k)
		for _, c := range r.checks {
			want := map[string]string{idPrograms: x.programs, idLinked: x.linked}[c.ID]
			if (c.Result == Fail) != (want != "") || c.Result == NotChecked || !strings.Contains(strings.Join(c.Found, "\n"), want) {
				t.Errorf("%s: %s is %s: %q, want %q", x.name, c.ID, c.Result, c.Found, want)
			}
		}
		if len(r.checks) != 2 {
			t.Errorf("%s: %d checks", x.name, len(r.checks))
		}
	}
}

// TestWhatIsNotToldIsNotChecked: an error is no pass, and hides nothing that was found.
func TestWhatIsNotToldIsNotChecked(t *testing.T) {
	for _, x := range []struct {
		fault error
		at    uint32
		want  Result
	}{
		{unix.EPERM, 1, NotChecked}, {unix.EINVAL, 1, NotChecked}, {unix.ENOSYS, 1, NotChecked},
		{unix.ENODEV, 1, Pass}, // it went away
		{unix.EPERM, 2, Fail},  // and the first has a program
	} {
		var r report
		Config{query: func(index, _ uint32) (int, error) {
			if index == x.at {
				return 0, x.fault
			}
			return int(x.at) - 1, nil
		}}.interfaces(&r, kernel{unix.RTM_GETLINK: {device(t, 1, "one", "", 0), device(t, 2, "two", "", 0)}})
		if c := r.checks[1]; c.ID != idLinked || c.Result != x.want {
			t.Errorf("%v at %d: %+v, want %s", x.fault, x.at, c, x.want)
		}
	}
	var r report
	Config{query: noPrograms}.interfaces(&r, deaf{})
	for _, c := range r.checks {
		if c.Result != NotChecked {
			t.Errorf("without an answer: %+v", c)
		}
	}
}

// TestInterruptedListIsNotChecked: what changed meanwhile may be missing in a list.
func TestInterruptedListIsNotChecked(t *testing.T) {
	torn := device(t, 1, "one", "", 0)
	torn.Header.Flags = 0x10 // NLM_F_DUMP_INTR
	var r report
	Config{query: noPrograms}.interfaces(&r, kernel{unix.RTM_GETLINK: {torn}})
	for _, c := range r.checks {
		if c.Result != NotChecked {
			t.Errorf("%+v", c)
		}
	}
}

type deaf struct{}

func (deaf) Execute(netlink.Message) ([]netlink.Message, error) { return nil, errors.New("no answer") }

// programLoad and linkCreate are the kernel's union bpf_attr for these two commands.
type programLoad struct {
	kind, count           uint32
	instructions, license uint64
	_                     [3]uint64
	_                     [8]uint32 // up to the attachment that is expected
}

type linkCreate struct {
	program, target, place, _ uint32
	_                         [6]uint64
}

// command is bpf(2). It skips the test where that is not allowed.
func command[T any](t *testing.T, number uintptr, what *T) int {
	t.Helper()
	fd, _, e := unix.Syscall(unix.SYS_BPF, number, uintptr(unsafe.Pointer(what)), unsafe.Sizeof(*what))
	runtime.KeepAlive(what)
	if errors.Is(e, unix.EPERM) {
		t.Skip("needs the right to load BPF programs: root of the machine, not of a namespace")
	}
	if e != 0 {
		t.Fatalf("bpf command %d: %v", number, e)
	}
	return int(fd) // which ends with the process, if not before
}

// TestLinkedProgramsAreFound links programs at the loopback of a namespace of its own, as
// anybody could who may: at tcx, where no object of traffic control shows them, and at XDP.
func TestLinkedProgramsAreFound(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to load BPF programs")
	}
	runtime.LockOSThread() // never unlocked: thread and namespace end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root of the machine: %v", err)
	}
	for _, x := range []struct {
		kind, place uint32 // enum bpf_prog_type, enum bpf_attach_type
		check, word string
	}{
		{3, 46, idLinked, "1 BPF programs at lo, tcx ingress"},
		{3, 47, idLinked, "1 BPF programs at lo, tcx egress"},
		{6, 37, idPrograms, "XDP program at lo"},
	} {
		judge := func(when string, want Result, word string) {
			t.Helper()
			var r report
			Config{}.around(&r)
			for _, c := range r.checks {
				w := Pass
				if c.ID == x.check {
					w = want
				}
				if c.Result != w || w == Fail && !strings.Contains(strings.Join(c.Found, "\n"), word) {
					t.Errorf("%s: %+v, want %s", when, c, w)
				}
			}
		}
		judge("before "+x.word, Pass, "")
		instructions, license := []uint64{0x7<<32 | 0xb7, 0x95}, []byte("GPL\x00") // r0 = 7; exit
		load := programLoad{kind: x.kind, count: 2, instructions: uint64(uintptr(unsafe.Pointer(&instructions[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
		program := command(t, unix.BPF_PROG_LOAD, &load)
		runtime.KeepAlive(instructions)
		runtime.KeepAlive(license)
		link := command(t, unix.BPF_LINK_CREATE, &linkCreate{program: uint32(program), target: 1, place: x.place})
		judge(x.word, Fail, x.word)
		must(t, unix.Close(link))
		judge("closed", Pass, "")
	}
}
