package stig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lazaret/firewall"
)

// oldest is the oldest kernel that enforcement rests on, and the reason stands with it.
var oldest = [2]int{6, 12}

func (c Config) kernel(r *report) {
	const id, title = "kernel.version", "the kernel has what enforcement rests on"
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		r.unmade(id, title, err, asRoot)
		return
	}
	release := unix.ByteSliceToString(uts.Release[:])
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	var wrong []string
	if err != nil || major < oldest[0] || major == oldest[0] && minor < oldest[1] {
		wrong = []string{fmt.Sprintf("kernel %s is older than %d.%d: tables that persist, and timeouts that are refreshed in place, are missing", release, oldest[0], oldest[1])}
	}
	r.add(id, title, wrong, []string{"kernel " + release}, "run a newer kernel")
}

// legacy looks for rules of the filters before nf_tables, which have hooks of their own.
func (c Config) legacy(r *report) {
	var wrong []string
	for _, name := range []string{"ip_tables_names", "ip6_tables_names", "arp_tables_names"} {
		text, err := os.ReadFile(filepath.Join(c.Proc, "thread-self/net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the module is not loaded, and nothing can be in it
		}
		if err != nil {
			r.unmade("tables.legacy", title("tables.legacy"), err, asRoot)
			return
		}
		for _, table := range strings.Fields(string(text)) {
			wrong = append(wrong, strings.TrimSuffix(name, "_names")+": table "+table)
		}
	}
	r.add("tables.legacy", title("tables.legacy"), wrong, nil, "flush the table and unload its module: rmmod iptable_filter, iptable_nat and their like")
}

// helpers: since Linux 6.0 no helper is assigned by itself, and the setting is gone.
func (c Config) helpers(r *report, f firewall.Found) {
	var wrong []string
	for _, o := range f.Objects {
		wrong = append(wrong, "object "+o)
	}
	text, err := os.ReadFile(filepath.Join(c.Proc, "sys/net/netfilter/nf_conntrack_helper"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.unmade("helpers", title("helpers"), err, asRoot)
		return
	case strings.TrimSpace(string(text)) != "0":
		wrong = append(wrong, "net/netfilter/nf_conntrack_helper is "+strings.TrimSpace(string(text)))
	}
	r.add("helpers", title("helpers"), wrong, nil, "sysctl -w net.netfilter.nf_conntrack_helper=0, and remove the objects named")
}

func (c Config) sysctl(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(c.Proc, "sys", path))
	return strings.TrimSpace(string(text)), err
}

// sysctls makes the checks of settings; blind is why the tables could not be read, if so.
func (c Config) sysctls(r *report, f firewall.Found, blind error) {
	const routes, forwarding, reverse = "sysctl.routes", "sysctl.forwarding", "sysctl.rp_filter"
	names, err := firewall.Interfaces()
	if err != nil {
		for _, id := range []string{routes, forwarding, reverse} {
			r.unmade(id, sysctlTitles[id], err, asRoot)
		}
		return
	}
	c.routes(r, routes, names)
	c.forwarding(r, forwarding, f, blind)
	c.reverse(r, reverse, names)
}

var sysctlTitles = map[string]string{
	"sysctl.routes":     "source routing and redirects are off",
	"sysctl.forwarding": "nothing is forwarded without the table",
	"sysctl.rp_filter":  "packets with a source from the wrong side are dropped",
}

func (c Config) routes(r *report, id string, names []string) {
	var wrong []string
	n := 0
	for _, s := range firewall.Sysctls(names) {
		value, err := c.sysctl(s.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6 here
		}
		if err != nil {
			r.unmade(id, sysctlTitles[id], err, asRoot)
			return
		}
		if n++; value != s.Value {
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", s.Path, value, s.Value))
		}
	}
	r.add(id, sysctlTitles[id], wrong, []string{fmt.Sprintf("%d settings of %d interfaces", n, len(names))},
		"set them with sysctl -w, and find out who set them: the data plane does it at its start, and logs what it could not")
}

// forwarding may be on only while there is a table that drops.
func (c Config) forwarding(r *report, id string, f firewall.Found, blind error) {
	found, on, err := c.forwards()
	if err != nil {
		r.unmade(id, sysctlTitles[id], err, asRoot)
		return
	}
	if on && blind != nil {
		r.unmade(id, sysctlTitles[id], blind, asRoot)
		return
	}
	t, ok := f.Table(c.Host.Table)
	shut := false
	for _, chain := range t.Chains {
		shut = shut || chain.Hook == "forward" && chain.Drop
	}
	if !on || ok && shut && !t.Dormant() {
		r.add(id, sysctlTitles[id], nil, found, "")
		return
	}
	r.add(id, sysctlTitles[id], append(found, "and no chain at forward is seen to drop"), nil, "set what is named to 0 with sysctl -w until the data plane runs")
}

// forwards reads the switches of forwarding. IPv4 has one for each interface beside that for
// all, which sets them; IPv6 has one for all, and since Linux 6.17 one for each interface
// that forwards without it.
func (c Config) forwards() (found []string, on bool, err error) {
	for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		value, err := c.sysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		found, on = append(found, path+" is "+value), on || value != "0"
	}
	for _, each := range [][2]string{{"net/ipv4/conf", "forwarding"}, {"net/ipv6/conf", "force_forwarding"}} {
		names, err := os.ReadDir(filepath.Join(c.Proc, "sys", each[0]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		for _, n := range names {
			path := filepath.Join(each[0], n.Name(), each[1])
			value, err := c.sysctl(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone meanwhile, or an older kernel
			}
			if err != nil {
				return nil, false, err
			}
			if value != "0" {
				found, on = append(found, path+" is "+value), true
			}
		}
	}
	return found, on, nil
}

// reverse wants a reverse path filter, loose or strict (RFC 3704), at each interface but the
// tunnel's, where keys bind the source. IPv6 has no such setting.
func (c Config) reverse(r *report, id string, names []string) {
	all, err := c.sysctl("net/ipv4/conf/all/rp_filter")
	if err != nil {
		r.unmade(id, sysctlTitles[id], err, asRoot)
		return
	}
	var wrong, found []string
	for _, name := range names {
		if name == c.Host.Tunnel {
			continue
		}
		own, err := c.sysctl(filepath.Join("net/ipv4/conf", name, "rp_filter"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		a, errA := strconv.Atoi(all)
		o, errO := strconv.Atoi(own)
		if err = errors.Join(err, errA, errO); err != nil {
			r.unmade(id, sysctlTitles[id], err, asRoot)
			return
		}
		line := fmt.Sprintf("%s: %d", name, max(a, o)) // the kernel takes the higher
		if found = append(found, line); max(a, o) == 0 {
			wrong = append(wrong, line)
		}
	}
	r.add(id, sysctlTitles[id], wrong, found, "sysctl -w net.ipv4.conf.all.rp_filter=2 (1 where no answer takes another way)")
}
