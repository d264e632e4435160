package daemon

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/console"
	"lazaret/internal/durable"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/pki"
	"lazaret/quarantine"
)

// What Init leaves in the administrator's directory: adminFiles for lazaretctl.
const tokenFile = "management-token"

var adminFiles = []string{"server", "root.pem", "admin.pem", "admin-key.pem"}

// administratorLife is the life of the first administrator's certificate.
const administratorLife = 365 * 24 * time.Hour

// InitOptions says what Init makes.
type InitOptions struct {
	ConfigPath    string         // where the configuration file goes; must not exist
	Values        map[string]any // configuration values by dotted key; the rest is the reference's
	Organization  string         // in the names of the authorities
	Administrator string         // name of the first administrator
	AdminDir      string         // where lazaretctl will find its credential
	Management    []string       // reach of the quarantine pool, like "192.0.2.10 tcp/443"
	Quarantine    []netip.Prefix // one per family
	Full          []netip.Prefix
	Routes        []netip.Prefix // what routed devices send into the tunnel; empty: everything
	Masquerade    bool
	MayRelease    bool          // the first source may release; true but in odd set-ups
	MaxValidity   time.Duration // of its reports; zero: the default
}

// Initialized tells what Init made.
type Initialized struct {
	ConfigPath string `json:"config"`
	AdminDir   string `json:"admin_dir"`
	APIURL     string `json:"api"`
	EnrollURL  string `json:"enroll"`
	Root       string `json:"root_sha256"` // hexadecimal
	TokenFile  string `json:"token_file"`  // the management server's API token
}

// Init makes a working gateway in one step: configuration, keys, authorities, pools, a
// profile, a source with its token, and the first administrator. It refuses to touch a
// gateway that is there already.
func Init(ctx context.Context, o InitOptions, log *slog.Logger) (Initialized, error) {
	text, err := config.Fill(o.Values)
	if err != nil {
		return Initialized{}, err
	}
	c, err := config.Parse(o.ConfigPath, text)
	if err != nil {
		return Initialized{}, err
	}
	pools, err := firstPools(o)
	if err != nil {
		return Initialized{}, err
	}
	if err := untouched(o, c); err != nil {
		return Initialized{}, err
	}
	out := Initialized{ConfigPath: o.ConfigPath, AdminDir: o.AdminDir, TokenFile: filepath.Join(o.AdminDir, tokenFile)}
	if err := fill(ctx, o, c, pools, log, func(ctx context.Context, h pki.Hierarchy, token string) error {
		out.EnrollURL, out.APIURL, out.Root = (&control{config: c}).enrollURL(), apiURL(c), rootSum(h)
		if err := writeAdministrator(ctx, o, h, out.APIURL); err != nil {
			return err
		}
		return durable.Create(out.TokenFile, []byte(token+"\n"), 0o600)
	}); err != nil {
		return Initialized{}, err
	}
	if err := durable.MakeDir(filepath.Dir(o.ConfigPath), 0o755); err != nil {
		return Initialized{}, fmt.Errorf("writing the configuration: %w", err)
	}
	// The configuration comes last: a gateway whose file is there is whole.
	return out, durable.Create(o.ConfigPath, text, 0o644)
}

// untouched makes sure that nothing Init is going to make is there, before it makes
// anything: a gateway made by half is harder to mend than none.
func untouched(o InitOptions, c config.Config) error {
	files := []string{o.ConfigPath, filepath.Join(c.State, "node.key"), filepath.Join(c.State, "node.key.ring")}
	if o.AdminDir != "" { // a claimant's is not here
		for _, name := range append([]string{tokenFile}, adminFiles...) {
			files = append(files, filepath.Join(o.AdminDir, name))
		}
	}
	var there []string
	for _, path := range files {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			there = append(there, path)
		}
	}
	for _, dir := range []string{storeDir(c), auditDir(c)} {
		if list, err := os.ReadDir(dir); len(list) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			there = append(there, dir)
		}
	}
	if len(there) > 0 {
		what := strings.Join(there, ", ")
		if len(there) > 1 {
			what = "each of " + what
		}
		return fmt.Errorf("%s is there already: a gateway was made before; choose other places or remove it first", what)
	}
	return nil
}

func storeDir(c config.Config) string { return filepath.Join(c.State, "etcd") }

// fill makes the state directory and everything in the store; handOver gets what is for
// the administrator while the root's key is at hand.
func fill(ctx context.Context, o InitOptions, c config.Config, pools []quarantine.Pool, log *slog.Logger,
	handOver func(ctx context.Context, h pki.Hierarchy, token string) error) (err error) {
	if err := durable.MakeDir(c.State, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	ring, err := seal.LoadOrCreate(filepath.Join(c.State, "node.key"))
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{
		Dir: storeDir(c), AuditDir: auditDir(c), Ring: ring, Gateway: c.Name, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	h, err := pki.NewHierarchy(pki.HierarchyConfig{Organization: o.Organization})
	if err != nil {
		return err
	}
	if err := saveHierarchy(ctx, s.Secrets(), h); err != nil {
		return err
	}
	if err := newProof(ctx, s.Secrets()); err != nil {
		return err
	}
	token, err := settle(ctx, s, o, pools)
	if err != nil {
		return err
	}
	if err := handOver(ctx, h, token); err != nil {
		return err
	}
	return s.FlushAudit(ctx)
}

// rootSum is the SHA-256 of the root's certificate, hexadecimal.
func rootSum(h pki.Hierarchy) string { return certificateSum(h.Root.Certificate) }

// certificateSum is the SHA-256 of a certificate, hexadecimal.
func certificateSum(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// firstPools checks and builds the two pools every gateway begins with.
func firstPools(o InitOptions) ([]quarantine.Pool, error) {
	q := quarantine.Pool{Name: "quarantine", Quarantine: true}
	for _, text := range o.Management {
		if err := console.AddReach(&q, text); err != nil {
			return nil, fmt.Errorf(`%w; write it like "192.0.2.10 tcp/443" or "mdm.example.com tcp/443"`, err)
		}
	}
	if len(q.Reach)+len(q.Named) == 0 {
		return nil, errors.New(`no management server: name at least one, like --management "192.0.2.10 tcp/443"`)
	}
	full := quarantine.Pool{Name: "full", Routes: o.Routes, Masquerade: o.Masquerade}
	if len(full.Routes) == 0 {
		full.Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	for _, x := range []struct {
		from []netip.Prefix
		to   *quarantine.Pool
	}{{o.Quarantine, &q}, {o.Full, &full}} {
		for _, p := range x.from {
			if p.Addr().Is4() {
				x.to.IPv4 = p
			} else {
				x.to.IPv6 = p
			}
		}
	}
	check := map[string]quarantine.Pool{q.Name: q}
	numbered := full
	numbered.Mark = firewall.Mark(1) // the store gives the real one
	check[full.Name] = numbered
	if err := quarantine.CheckPools(check, 1); err != nil {
		return nil, err
	}
	return []quarantine.Pool{q, full}, nil
}

// settle writes what the organization begins with and returns the first token.
func settle(ctx context.Context, s *store.Store, o InitOptions, pools []quarantine.Pool) (string, error) {
	by := quarantine.Actor{Kind: "gateway", Name: "init"}
	for _, p := range pools {
		if err := s.PutPool(ctx, by, p); err != nil {
			return "", fmt.Errorf("saving pool %s: %w", p.Name, err)
		}
	}
	profile := quarantine.Profile{Name: "default", Pool: "full"}
	if err := s.PutProfile(ctx, by, profile); err != nil {
		return "", fmt.Errorf("saving the default profile: %w", err)
	}
	source := quarantine.Source{Name: "management", MayRelease: o.MayRelease, MaxValidity: o.MaxValidity, Facts: []string{"*"}}
	if err := s.PutSource(ctx, by, source); err != nil {
		return "", fmt.Errorf("saving the management source: %w", err)
	}
	text := console.NewToken()
	token := store.Token{Name: "management", Sum: sha256.Sum256([]byte(text)), Scope: "report", Source: source.Name, Created: time.Now().UTC(), By: by.Name}
	if err := s.PutToken(ctx, by, token); err != nil {
		return "", fmt.Errorf("saving the management server's token: %w", err)
	}
	return text, nil
}

// issueAdministrator issues the first administrator's certificate for a key.
func issueAdministrator(ctx context.Context, o InitOptions, h pki.Hierarchy, key crypto.PublicKey) ([]*x509.Certificate, error) {
	a, err := pki.New(pki.Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators})
	if err != nil {
		return nil, err
	}
	return administratorChain(ctx, a, o.Administrator, key)
}

// administratorChain issues an administrator's certificate for a key. The chain has the
// certificate, then its authority.
func administratorChain(ctx context.Context, a *pki.Authority, name string, key crypto.PublicKey) ([]*x509.Certificate, error) {
	cert, err := a.Issue(ctx, pki.Request{
		Kind: pki.Administrator, PublicKey: key, CommonName: name, NotAfter: time.Now().Add(administratorLife),
	})
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{cert, a.Issuing(pki.Administrator)}, nil
}

// writeAdministrator makes the first administrator's key and certificate and leaves them
// where lazaretctl looks.
func writeAdministrator(ctx context.Context, o InitOptions, h pki.Hierarchy, apiURL string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the administrator's key: %w", err)
	}
	certs, err := issueAdministrator(ctx, o, h, key.Public())
	if err != nil {
		return err
	}
	der, err := pki.MarshalKey(key)
	if err != nil {
		return err
	}
	if err := durable.MakeDir(o.AdminDir, 0o700); err != nil {
		return fmt.Errorf("making the administrator's directory: %w", err)
	}
	chain := append(pemBlock("CERTIFICATE", certs[0].Raw), pemBlock("CERTIFICATE", certs[1].Raw)...)
	texts := [][]byte{[]byte(apiURL + "\n"), pemBlock("CERTIFICATE", h.Root.Certificate.Raw), chain, pemBlock("PRIVATE KEY", der)}
	for i, name := range adminFiles {
		if err := durable.Create(filepath.Join(o.AdminDir, name), texts[i], 0o600); err != nil {
			return err
		}
	}
	return nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// apiURL is where lazaretctl on this machine reaches the API.
func apiURL(c config.Config) string {
	at := c.API.Listen[0]
	host := at.Addr().String()
	if at.Addr().IsUnspecified() {
		host = append(c.API.Names, c.Enroll.Names...)[0]
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(int(at.Port())))
}
