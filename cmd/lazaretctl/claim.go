package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance"
	"lazaret/appliance/claim"
)

// claimFlags are what lazaretctl claim is told. Flags complete, and win over, the file.
type claimFlags struct {
	file, codeFile          string
	names, apiNames         []string
	management              []string
	admin, quarantine, full []string
	routes                  []string
	set                     appliance.Setup // what flags give as it is
	masquerade              bool            // given, whatever it is
	acceptClock             bool
}

// claimed is what lazaretctl claim says with --json.
type claimed struct {
	Dir         string `json:"dir"`
	Name        string `json:"name"`
	API         string `json:"api"`
	Enroll      string `json:"enroll"`
	RootSHA256  string `json:"root_sha256"`
	TokenFile   string `json:"token_file,omitempty"` // none, where the gateway was there before
	Fingerprint string `json:"fingerprint"`          // of the unclaimed machine
}

const claimLong = `Make an unclaimed machine a gateway, and become its first administrator.

The code on the machine's screen is what protects this: machine and lazaretctl each prove to
the other that they know it, over this very connection. It is not sent. The administrator's
key is made here and stays here.

What the gateway is to be comes from the machine's seed, if it has one, from -f (YAML or JSON,
as in a seed), from flags, or, at a terminal, from questions; flags win over the file, and that
over the seed. The machine's clock must be right: what is made now is valid from its time on. If
its time is more than an hour from this computer's, nothing is made. If the connection breaks, give the same command again: until the
machine has heard that its answer arrived, it is asked for again, and for ten minutes at most.

A gateway at whose screen somebody asked for a new administrator shows a code, too. The same
command makes you one then: nothing is asked but the code, and nothing of the gateway changes.`

func (s *session) claim() *cobra.Command {
	var v claimFlags
	c := &cobra.Command{
		Use: "claim HOST[:PORT]", Short: "Make an unclaimed machine a gateway, and become its administrator", Args: cobra.ExactArgs(1), Long: claimLong,
		Example: `  lazaretctl claim 192.0.2.20
  lazaretctl claim 192.0.2.20 -f setup.yaml --code-file code.txt
  lazaretctl claim gw.example.com --enroll-name gw.example.com --management "192.0.2.10 tcp/443" --admin-network 192.0.2.0/24`,
		RunE: func(cmd *cobra.Command, args []string) error { return s.runClaim(cmd, args[0], &v) },
	}
	f := c.Flags()
	f.StringVarP(&v.file, "file", "f", "", "what the gateway is to be: YAML or JSON")
	f.StringVar(&v.codeFile, "code-file", "", "file with the claim code, - for standard input (default: ask at the terminal)")
	f.BoolVar(&v.acceptClock, "accept-clock", false, "claim a machine whose clock is far from this computer's")
	f.StringSliceVar(&v.apiNames, "api-name", nil, "further names or addresses the API is reached at (HOST is one)")
	f.StringVar(&v.set.Name, "name", "", "the gateway's name (default gateway)")
	f.StringVar(&v.set.Organization, "organization", "", "name in the authorities' certificates (default Lazaret)")
	f.StringVar(&v.set.Administrator, "administrator", "", "name of the first administrator (default administrator)")
	f.StringSliceVar(&v.names, "enroll-name", nil, "host name or address devices enroll at (required)")
	f.StringArrayVar(&v.management, "management", nil, `what quarantine reaches, like "192.0.2.10 tcp/443" (required)`)
	f.StringSliceVar(&v.admin, "admin-network", nil, "networks that may administer the gateway (default: those the machine is on)")
	f.StringSliceVar(&v.set.Endpoints, "endpoint", nil, "host:port devices dial WireGuard at (default: first enroll name)")
	f.StringSliceVar(&v.quarantine, "quarantine", nil, "prefixes of the quarantine pool")
	f.StringSliceVar(&v.full, "full", nil, "prefixes of the full pool")
	f.StringSliceVar(&v.routes, "route", nil, "what released devices send into the tunnel (default: everything)")
	f.BoolVar(&v.set.Masquerade, "masquerade", false, "hide released devices behind the gateway's own address")
	f.StringSliceVar(&v.set.TimeServers, "time-server", nil, "names or addresses of time servers")
	f.StringVar(&v.set.Proxy, "proxy", "", "proxy for the gateway's own HTTP and HTTPS, like http://192.0.2.3:3128")
	f.StringVar(&v.set.Updates.Channel, "update-channel", "", "URL of the update channel")
	return c
}

func (s *session) runClaim(cmd *cobra.Command, host string, v *claimFlags) error {
	address, name := claimAddress(host)
	v.apiNames = append([]string{name}, v.apiNames...)
	ask := &questions{in: cmd.InOrStdin(), out: cmd.ErrOrStderr()}
	text, key, resumed, err := s.pending(address)
	if err != nil {
		return err
	}
	ours := resumed && s.holds(key)
	if !ours { // what is there is no earlier try of this claim
		if err := s.vacant(); err != nil {
			return err
		}
	}
	if ours && !forAdministrator(text) && s.answers(cmd.Context()) {
		return s.claimedBefore(cmd)
	}
	offer, err := claim.AskOffer(cmd.Context(), address)
	if err != nil && ours {
		err = fmt.Errorf("%w: %w", errUnheard, err)
	}
	if err != nil {
		return explainClaim(err)
	}
	if err := checkClock(ask.out, offer.Clock, time.Now(), v.acceptClock); err != nil {
		return err
	}
	only := offer.Administrator
	if resumed && forAdministrator(text) != only {
		resumed = false // of the time before, or after, it was a gateway
	}
	code, err := ask.code(v.codeFile)
	if err != nil {
		return err
	}
	switch {
	case resumed && (only || v.file == "" && len(v.names) == 0):
	case only:
		fmt.Fprintln(ask.out, "this machine is a gateway; the claim makes a new administrator of it")
		if text, key, err = newAdministrator(cmd, v); err != nil {
			return err
		}
	default:
		setup, err := s.askSetup(cmd, v, ask, address, code)
		if err != nil {
			return err
		}
		if resumed && !sameSetup(text, setup) {
			return fmt.Errorf("a claim of this machine with another set-up is under way: give that one, or none; or remove %s to give it up", filepath.Join(s.dir, pendingFile))
		}
		if !resumed {
			if text, key, err = newClaim(setup, v.apiNames); err != nil {
				return err
			}
		}
	}
	if resumed {
		fmt.Fprintln(ask.out, "going on with the claim begun before")
	}
	a, err := s.exchange(cmd.Context(), ask.out, address, code, text, key)
	if err != nil {
		if refusal, ok := errors.AsType[*claim.Refusal](err); ok && (refusal.Kind == claim.Invalid || refusal.Kind == claim.Claimed) {
			_ = s.dropPending() // nothing was made of it; what is left of it ends by its age
		}
		return explainClaim(err)
	}
	if err := s.dropPending(); err != nil {
		return err
	}
	return s.showClaimed(cmd, a)
}

// askSetup is what the machine's seed said, completed and overridden by file and flags.
func (s *session) askSetup(cmd *cobra.Command, v *claimFlags, ask *questions, address string, code claim.Code) (appliance.Setup, error) {
	seeded, err := claim.AskSeed(cmd.Context(), address, code, func(print string) {
		fmt.Fprintf(ask.out, "certificate, SHA-256: %s\n", print)
	})
	if err != nil {
		return seeded, explainClaim(err)
	}
	if !reflect.ValueOf(seeded).IsZero() {
		fmt.Fprintln(ask.out, "the machine has a set-up of a seed; file and flags win over it")
	}
	v.masquerade = cmd.Flags().Changed("masquerade")
	return v.setup(ask, seeded)
}

// setup is the seed's, overridden by the file's and that by flags, field by field, and
// completed, at a terminal, by questions.
func (v *claimFlags) setup(ask *questions, s appliance.Setup) (appliance.Setup, error) {
	if v.file != "" {
		text, err := readBounded(v.file, nil)
		if err != nil {
			return s, fmt.Errorf("reading the set-up: %w", err)
		}
		file, err := appliance.ReadSetup([]byte(text), nil)
		if err != nil {
			return s, fmt.Errorf("%s:\n%w", v.file, err)
		}
		override(reflect.ValueOf(&s).Elem(), reflect.ValueOf(file))
	}
	for _, x := range []struct{ from, to *string }{
		{&v.set.Name, &s.Name}, {&v.set.Organization, &s.Organization}, {&v.set.Administrator, &s.Administrator}, {&v.set.Proxy, &s.Proxy}, {&v.set.Updates.Channel, &s.Updates.Channel},
	} {
		if *x.from != "" {
			*x.to = *x.from
		}
	}
	for _, x := range []struct {
		from []string
		to   *[]string
	}{{v.names, &s.EnrollNames}, {v.management, &s.Management}, {v.set.Endpoints, &s.Endpoints}, {v.set.TimeServers, &s.TimeServers}} {
		if len(x.from) > 0 {
			*x.to = x.from
		}
	}
	if v.masquerade {
		s.Masquerade = v.set.Masquerade
	}
	for _, x := range []struct {
		flag string
		from []string
		to   *[]netip.Prefix
	}{{"admin-network", v.admin, &s.AdminNetworks}, {"quarantine", v.quarantine, &s.Quarantine}, {"full", v.full, &s.Full}, {"route", v.routes, &s.Routes}} {
		for i, text := range x.from {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return s, fmt.Errorf("--%s %q: write a network like 192.0.2.0/24", x.flag, text)
			}
			if i == 0 {
				*x.to = nil
			}
			*x.to = append(*x.to, p)
		}
	}
	if err := ask.complete(&s); err != nil {
		return s, err
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("the set-up has faults:\n%w", err)
	}
	return s, nil
}

// override replaces what over says something about; of updates each by itself, the network as
// a whole. What is false, like masquerade, says nothing: a flag does.
func override(to, over reflect.Value) {
	for i := range over.NumField() {
		switch f := over.Field(i); {
		case f.Kind() == reflect.Struct:
			override(to.Field(i), f)
		case !f.IsZero():
			to.Field(i).Set(f)
		}
	}
}

// sameSetup says whether a request under way asks for this setup.
func sameSetup(request []byte, setup appliance.Setup) bool {
	r, _, err := claim.ParseRequest(request)
	if err != nil {
		return false
	}
	a, err := json.Marshal(r.Setup)
	b, err2 := json.Marshal(setup)
	return err == nil && err2 == nil && string(a) == string(b)
}

func newClaim(setup appliance.Setup, apiNames []string) ([]byte, *ecdsa.PrivateKey, error) {
	return newRequest(claim.Request{Setup: setup, APINames: apiNames})
}

func newRequest(r claim.Request) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the administrator's key: %w", err)
	}
	text, err := claim.NewRequest(r, key)
	return text, key, err
}

// forAdministrator says whether a request under way is for an administrator alone.
func forAdministrator(request []byte) bool {
	r, _, err := claim.ParseRequest(request)
	return err == nil && r.AdministratorOnly
}

// newAdministrator makes a request for an administrator of a gateway that is there. Flags
// about the gateway have nothing to say then, and are no mistake to pass over.
func newAdministrator(cmd *cobra.Command, v *claimFlags) ([]byte, *ecdsa.PrivateKey, error) {
	var wrong []string
	for _, name := range []string{
		"file", "api-name", "name", "organization", "enroll-name", "management", "admin-network", "endpoint", "quarantine", "full", "route", "masquerade",
		"time-server", "proxy", "update-channel",
	} {
		if cmd.Flags().Changed(name) {
			wrong = append(wrong, "--"+name)
		}
	}
	if len(wrong) > 0 {
		return nil, nil, fmt.Errorf("this machine is a gateway already, and a new administrator changes nothing of it: leave out %s", strings.Join(wrong, ", "))
	}
	return newRequest(claim.Request{Setup: appliance.Setup{Administrator: v.set.Administrator}, AdministratorOnly: true})
}

// explainClaim says what to do about the errors people meet.
func explainClaim(err error) error {
	refusal, _ := errors.AsType[*claim.Refusal](err)
	switch {
	case errors.Is(err, errUnheard):
		return fmt.Errorf("%w. The credential is kept. If lazaretctl status answers, all is well. Else give the same command again within ten minutes; after that the machine shows a new code: remove the credential, and claim it anew", err)
	case errors.Is(err, claim.ErrProof):
		return fmt.Errorf("%w. Compare the fingerprint above with the one on its screen: if they are the same, the code is not this machine's, or not any more (it changes with every start). If they differ, somebody is between you and the machine: stop. Nothing was given away", err)
	case errors.Is(err, claim.ErrNoMachine):
		return fmt.Errorf("%w: is this the address on its screen? A machine that is claimed already answers otherwise", err)
	case errors.Is(err, claim.ErrLost):
		return fmt.Errorf("%w; give the same command again within ten minutes", err)
	case refusal != nil && refusal.Kind == claim.Claimed:
		return fmt.Errorf("%w. If that was not you, reset it at its screen, and find out who stood there", err)
	}
	return err
}

func (s *session) showClaimed(cmd *cobra.Command, v claimed) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.show(cmd, append(raw, '\n'), func(w io.Writer) {
		if v.TokenFile == "" {
			fmt.Fprintf(w, `You are an administrator of %s. Its control plane starts again now, which takes some seconds.
  administrator          %s
  API                    %s
  root certificate       SHA-256 %s

Next:
  lazaretctl %sstatus
`, v.Name, v.Dir, v.API, v.RootSHA256, s.where(cmd))
			return
		}
		fmt.Fprintf(w, `Claimed %s. It starts as a gateway now, which takes some seconds.
  administrator          %s
  management server      token in %s
  API                    %s
  devices enroll at      %s
  root certificate       SHA-256 %s

Next:
  lazaretctl %[7]sstatus
  lazaretctl %[7]sotp create --user NAME
`, v.Name, v.Dir, v.TokenFile, v.API, v.Enroll, v.RootSHA256, s.where(cmd))
	})
}
