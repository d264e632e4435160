package daemon

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/network"
	"lazaret/internal/config"
	"lazaret/internal/durable"
	"lazaret/internal/making"
	"lazaret/pki"
	"lazaret/quarantine"
)

// Defaults of a gateway's pools and names, for init and for claims.
const (
	DefaultName          = "gateway"
	DefaultOrganization  = "Lazaret"
	DefaultAdministrator = "administrator"
	DefaultMaxValidity   = time.Hour
)

// DefaultQuarantine and DefaultFull are the pools' prefixes where none are given.
var (
	DefaultQuarantine = texts(appliance.DefaultQuarantine)
	DefaultFull       = texts(appliance.DefaultFull)
)

// applianceAPIPort is where the API of an appliance listens.
const applianceAPIPort = 8443

// ServeMake reads one making.Request from in, makes the gateway, or a new administrator of the
// one there is, and tells on out its steps and how it ended (making.Teller). Secrets go by these
// pipes alone. An end that was told is no error: making.ReadMade returns it at the other end.
func ServeMake(ctx context.Context, in io.Reader, out io.Writer, at making.Places, log *slog.Logger) error {
	tell := making.NewTeller(out)
	q, err := making.ReadRequest(in)
	if err != nil {
		return tell.End(making.Made{}, err)
	}
	carryOut := InitFromSetup
	if q.Claim.AdministratorOnly {
		carryOut = MakeAdministrator
	}
	return tell.End(carryOut(ctx, q, at, log, tell.Step))
}

// InitFromSetup makes a gateway of a claim: everything but its configuration file, which
// making.Keep writes once the claimant holds the answer. What an earlier call left half made is
// removed; a gateway that is there is not touched. What is wrong with the claim is a
// *claim.Refusal. Step, which may be nil, is told how far it is.
func InitFromSetup(ctx context.Context, q making.Request, at making.Places, log *slog.Logger, step func(string)) (making.Made, error) {
	if step == nil {
		step = func(string) {}
	}
	if q.Claim.AdministratorOnly {
		return making.Made{}, &claim.Refusal{Kind: claim.Invalid, What: "there is no gateway yet that could have a new administrator"}
	}
	key, err := checkClaim(q.Claim)
	if err != nil {
		return making.Made{}, err
	}
	p, err := draftOf(q, at)
	if err != nil {
		return making.Made{}, err
	}
	o, c := p.options, p.config
	if err := clearHalfMade(o, c); err != nil {
		return making.Made{}, err
	}
	step("Making the keys, the authorities and the store.")
	made := making.Made{Config: p.text, Answer: claim.Answer{Version: 1, Name: c.Name, API: apiURL(c), Enroll: (&control{config: c}).enrollURL()}}
	err = fill(ctx, o, c, p.pools, log, func(ctx context.Context, h pki.Hierarchy, token string) error {
		step("Issuing the administrator's certificate.")
		certs, err := issueAdministrator(ctx, o, h, key)
		if err != nil {
			return err
		}
		for _, cert := range certs {
			made.Answer.Administrator = append(made.Answer.Administrator, cert.Raw)
		}
		made.Answer.Root, made.Answer.RootSHA256, made.Answer.Token = h.Root.Certificate.Raw, rootSum(h), token
		return nil
	})
	if err != nil {
		return making.Made{}, err
	}
	step("The gateway is made.")
	return made, nil
}

// draft is what a claim says a gateway shall be, before anything is made.
type draft struct {
	options InitOptions
	config  config.Config
	text    []byte // of the configuration
	pools   []quarantine.Pool
}

// draftOf drafts the gateway of a claim. It refuses no setup that passes Setup.Check, unless
// the machine is on no network and the setup names none.
func draftOf(q making.Request, at making.Places) (d draft, err error) {
	if d.options, err = setupOptions(q, at); err != nil {
		return d, err
	}
	if d.text, err = config.Fill(d.options.Values); err != nil {
		return d, invalid(err)
	}
	if d.config, err = config.Parse(at.Config, d.text); err != nil {
		return d, invalid(err)
	}
	if d.pools, err = firstPools(d.options); err != nil {
		return d, invalid(err)
	}
	return d, nil
}

// checkClaim checks what the claimant sent, again: this process trusts no other's check.
func checkClaim(r claim.Request) (*ecdsa.PublicKey, error) {
	if faults := claim.CheckRequest(r); len(faults) > 0 {
		return nil, &claim.Refusal{Kind: claim.Invalid, What: "the set-up has faults", Faults: faults}
	}
	key, err := claim.CheckCSR(r.CSR)
	if err != nil {
		return nil, invalid(err)
	}
	return key, nil
}

// invalid makes a refusal of an error in what was asked for; a configuration's faults come
// one by one.
func invalid(err error) error {
	r := &claim.Refusal{Kind: claim.Invalid, What: err.Error()}
	if faults, ok := errors.AsType[*config.Faults](err); ok {
		r.What = "the set-up has faults"
		for _, f := range faults.List {
			r.Faults = append(r.Faults, claim.Fault{Field: fieldOf[f.Key], What: strings.TrimSuffix(f.Key+" "+f.What+"; "+f.Remedy, "; ")})
		}
	}
	return r
}

// fieldOf names the key of a setup that each configuration value comes from.
var fieldOf = map[string]string{
	"name": "name", "enroll.names": "enroll_names", "tunnel.endpoints": "endpoints", "api.from": "admin_networks", "firewall.admin": "admin_networks",
	"firewall.proxy": "proxy",
}

// setupOptions are what Init would be told.
func setupOptions(q making.Request, at making.Places) (InitOptions, error) {
	s := q.Claim.Setup
	o := InitOptions{
		ConfigPath: at.Config, Organization: cmp.Or(s.Organization, DefaultOrganization), Administrator: cmp.Or(s.Administrator, DefaultAdministrator),
		Management: s.Management, Quarantine: s.Quarantine, Full: s.Full, Routes: s.Routes, Masquerade: s.Masquerade,
		MayRelease: true, MaxValidity: DefaultMaxValidity,
	}
	if len(o.Quarantine) == 0 {
		o.Quarantine = appliance.DefaultQuarantine
	}
	if len(o.Full) == 0 {
		o.Full = appliance.DefaultFull
	}
	admin := texts(s.AdminNetworks)
	if len(admin) == 0 {
		admin = networksOf(q.Addresses)
	}
	if len(admin) == 0 {
		return o, &claim.Refusal{Kind: claim.Invalid, What: "the set-up has faults", Faults: []claim.Fault{{
			Field: "admin_networks", What: "the machine is on no network yet: name the networks that administrators are on",
		}}}
	}
	net := q.Network
	if s.Network != nil {
		net = *s.Network
	}
	in, out := network.Services(net)
	out = append([]string{"udp/53", "tcp/53", "udp/123"}, out...)
	if s.Proxy == "" {
		out = append(out, "tcp/443") // the update channel, and sources that are asked
	}
	o.Values = map[string]any{
		"name": cmp.Or(s.Name, DefaultName), "state": at.State, "dataplane.state": at.Plane,
		"dataplane.control_uids": []string{strconv.Itoa(appliance.ControlUser)},
		"enroll.names":           s.EnrollNames, "tunnel.endpoints": s.Endpoints,
		"api.listen": []string{fmt.Sprintf("0.0.0.0:%d", applianceAPIPort), fmt.Sprintf("[::]:%d", applianceAPIPort)},
		"api.names":  apiNames(q), "api.from": admin, "firewall.admin": admin,
		"firewall.in": once(in), "firewall.out": once(out), "firewall.proxy": s.Proxy,
		"resolver.serve": true, "portal.serve": true,
	}
	return o, nil
}

// apiNames are what the API's certificate must hold: how the claimant reached the machine,
// what it is called, and the addresses that it has.
func apiNames(q making.Request) []string {
	names := slices.Clone(q.Claim.APINames)
	static := q.Addresses
	if n := q.Claim.Setup.Network; n != nil {
		for _, l := range links(*n) {
			static = append(slices.Clone(static), l.Addresses...)
		}
	}
	for _, p := range static {
		if a := p.Addr(); !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			names = append(names, a.String())
		}
	}
	return once(names)
}

func links(n appliance.Network) []appliance.Link {
	var all []appliance.Link
	for _, e := range n.Ethernets {
		all = append(all, e.Link)
	}
	for _, b := range n.Bonds {
		all = append(all, b.Link)
	}
	for _, v := range n.VLANs {
		all = append(all, v.Link)
	}
	return all
}

// networksOf are the networks that addresses are in, less those that reach nobody else.
func networksOf(list []netip.Prefix) []string {
	var out []string
	for _, p := range list {
		if a := p.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			continue
		}
		out = append(out, p.Masked().String())
	}
	return once(out)
}

// once returns each text the first time it comes; never nil.
func once(list []string) []string {
	out := []string{}
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func texts(list []netip.Prefix) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// clearHalfMade removes what an earlier attempt left, and marks that another begins. It
// touches nothing that has a configuration, or that was not marked.
func clearHalfMade(o InitOptions, c config.Config) error {
	mark := filepath.Join(c.State, making.HalfMade)
	_, err := os.Lstat(mark)
	marked := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a gateway made by half: %w", err)
	}
	if _, err := os.Lstat(o.ConfigPath); marked && errors.Is(err, fs.ErrNotExist) {
		list, err := os.ReadDir(c.State)
		if err != nil {
			return fmt.Errorf("removing a gateway made by half: %w", err)
		}
		for _, e := range list {
			if e.Name() == making.HalfMade {
				continue
			}
			if err := os.RemoveAll(filepath.Join(c.State, e.Name())); err != nil {
				return fmt.Errorf("removing a gateway made by half: %w", err)
			}
		}
	}
	if err := untouched(o, c); err != nil || marked {
		return err
	}
	if err := durable.MakeDir(c.State, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	return durable.Create(mark, nil, 0o600)
}
