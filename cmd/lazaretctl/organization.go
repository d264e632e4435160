package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// list makes a list command for one kind of named value.
func list[T any](s *session, kind, path, head string, row func(T) []string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List " + kind + "s", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, raw, err := ask[[]T](cmd.Context(), s, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, v := range values {
					rows = append(rows, row(v))
				}
				grid(w, head, rows)
			})
		}}
}

// remove makes a delete command for one kind of named value.
func remove(s *session, kind, path string) *cobra.Command {
	return &cobra.Command{Use: "delete NAME", Short: "Delete a " + kind, Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(path, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, path+"/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "deleted", kind, args[0]) })
		}}
}

// save puts a value: flags change what is there, or make a new one.
func save[T any](cmd *cobra.Command, s *session, kind, path, name string, get func(T) string, change func(*T)) error {
	all, _, err := ask[[]T](cmd.Context(), s, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	var v T
	for _, have := range all {
		if get(have) == name {
			v = have
		}
	}
	change(&v)
	_, raw, err := ask[T](cmd.Context(), s, http.MethodPut, path+"/"+url.PathEscape(name), v)
	if err != nil {
		return err
	}
	return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "saved", kind, name) })
}

// poolFlags are what pool set says of a pool.
type poolFlags struct {
	v4, v6                    string
	reach, routes, dns, allow []string
	masquerade, forward, user bool
}

func (v *poolFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&v.v4, "ipv4", "", "IPv4 prefix")
	f.StringVar(&v.v6, "ipv6", "", "IPv6 prefix")
	f.StringArrayVar(&v.reach, "reach", nil, `what it may open, like "192.0.2.10 tcp/443" or, by name, "mdm.example.com tcp/443"; repeat for more. An address is safer: a name on a shared server admits its neighbours`)
	f.StringSliceVar(&v.allow, "allow", nil, "private networks that names in its reach may lead into")
	f.BoolVar(&v.forward, "forward", false, "the gateway's resolver answers its devices every name")
	f.StringSliceVar(&v.routes, "route", nil, "what its devices send into the tunnel")
	f.StringSliceVar(&v.dns, "dns", nil, "resolvers its devices use")
	f.BoolVar(&v.masquerade, "masquerade", false, "hide its devices behind the gateway's address")
	f.BoolVar(&v.user, "need-user", false, "route only devices whose user has a fresh session")
}

// change returns what sets those values of a pool whose flags were given.
func (v *poolFlags) change(changed func(flag string) bool) (func(*api.Pool), error) {
	var parsed [2]netip.Prefix
	for i, text := range []string{v.v4, v.v6} {
		if text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("prefix %q: write a network like 10.67.0.0/16", text)
		}
		parsed[i] = p
	}
	servers, err := addrs(v.dns)
	if err != nil {
		return nil, err
	}
	allowed, err := prefixes(v.allow)
	if err != nil {
		return nil, err
	}
	return func(p *api.Pool) {
		for flag, apply := range map[string]func(){
			"ipv4": func() { p.IPv4 = parsed[0] }, "ipv6": func() { p.IPv6 = parsed[1] },
			"reach": func() { p.Reach = v.reach }, "allow": func() { p.Allow = allowed }, "forward": func() { p.Forward = v.forward },
			"route": func() { p.Routes = v.routes }, "dns": func() { p.DNS = servers }, "masquerade": func() { p.Masquerade = v.masquerade },
			"need-user": func() { p.NeedUser = v.user },
		} {
			if changed(flag) {
				apply()
			}
		}
	}, nil
}

func (s *session) pool() *cobra.Command {
	const path = "/api/v1/pools"
	var v poolFlags
	set := &cobra.Command{Use: "set NAME", Short: "Create a pool or change it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(path, "name"),
		Example: `  lazaretctl pool set quarantine --reach "192.0.2.10 tcp/443" --reach "2001:db8::10 tcp/443"
  lazaretctl pool set quarantine --reach "mdm.example.com tcp/443"
  lazaretctl pool show quarantine`}
	set.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := v.change(cmd.Flags().Changed)
		if err != nil {
			return err
		}
		return save(cmd, s, "pool", path, args[0], func(p api.Pool) string { return p.Name }, func(p *api.Pool) {
			p.Name = args[0]
			change(p)
		})
	}
	v.define(set)
	c := &cobra.Command{Use: "pool", Short: "Address pools and what they reach"}
	c.AddCommand(set, s.showPool(), remove(s, "pool", path), list(s, "pool", path, "NAME IPV4 IPV6 QUARANTINE MASQUERADE REACH", func(p api.Pool) []string {
		return []string{p.Name, prefix(p.IPv4), prefix(p.IPv6), yes(p.Quarantine), yes(p.Masquerade), dash(strings.Join(p.Reach, ", "))}
	}))
	return c
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("network %q: write one like 10.1.2.0/24", text)
		}
		out = append(out, p)
	}
	return out, nil
}

func addrs(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("resolver %q: write an address", text)
		}
		out = append(out, a)
	}
	return out, nil
}

func prefix(p netip.Prefix) string {
	if !p.IsValid() {
		return "-"
	}
	return p.String()
}

func (s *session) profile() *cobra.Command {
	const path = "/api/v1/profiles"
	var v api.Profile
	set := &cobra.Command{Use: "set NAME", Short: "Create an enrollment profile or change it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(path, "name")}
	set.RunE = func(cmd *cobra.Command, args []string) error {
		changed := cmd.Flags().Changed
		return save(cmd, s, "profile", path, args[0], func(p api.Profile) string { return p.Name }, func(p *api.Profile) {
			p.Name = args[0]
			for flag, apply := range map[string]func(){
				"pool": func() { p.Pool = v.Pool }, "skip-quarantine": func() { p.SkipQuarantine = v.SkipQuarantine },
				"need-approval": func() { p.NeedApproval = v.NeedApproval }, "platform": func() { p.Platforms = v.Platforms },
				"ownership": func() { p.Ownerships = v.Ownerships }, "need-serial": func() { p.NeedSerial = v.NeedSerial },
				"allow-rsa": func() { p.AllowRSA = v.AllowRSA }, "addressing": func() { p.Addressing = v.Addressing },
				"group": func() { p.Groups = v.Groups },
			} {
				if changed(flag) || (flag == "pool" && p.Pool == "") {
					apply()
				}
			}
		})
	}
	f := set.Flags()
	f.StringVar(&v.Pool, "pool", "full", "full pool its devices are released into")
	f.BoolVar(&v.SkipQuarantine, "skip-quarantine", false, "start routed, without a report")
	f.BoolVar(&v.NeedApproval, "need-approval", false, "start pending, until an administrator approves")
	f.StringSliceVar(&v.Platforms, "platform", nil, "only these platforms")
	f.StringSliceVar(&v.Ownerships, "ownership", nil, "only these: corporate, personal")
	f.StringSliceVar(&v.Groups, "group", nil, "groups of its devices")
	f.BoolVar(&v.NeedSerial, "need-serial", false, "one-time passwords must name a serial number")
	f.BoolVar(&v.AllowRSA, "allow-rsa", false, "accept RSA keys of 2048 to 4096 bits")
	f.StringVar(&v.Addressing, "addressing", "follow", "follow: a pool address while routed; fixed: one address")
	c := &cobra.Command{Use: "profile", Short: "Enrollment profiles"}
	c.AddCommand(set, remove(s, "profile", path), list(s, "profile", path, "NAME POOL QUARANTINE APPROVAL PLATFORMS OWNERSHIPS SERIAL", func(p api.Profile) []string {
		return []string{p.Name, p.Pool, yes(!p.SkipQuarantine), yes(p.NeedApproval), dash(strings.Join(p.Platforms, ",")), dash(strings.Join(p.Ownerships, ",")), yes(p.NeedSerial)}
	}))
	return c
}

func (s *session) status() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "State of the gateway", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, raw, err := ask[api.Status](cmd.Context(), s, http.MethodGet, "/api/v1/status", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintf(w, "gateway %s, version %s, enforcing: %s\n", v.Gateway, v.Version, yes(v.Ready))
				for _, stage := range []string{"pending", "quarantined", "routed", "blocked", "revoked"} {
					fmt.Fprintf(w, "  %-12s %d\n", paint(w, stage), v.Devices[stage])
				}
			})
		}}
}
