package console

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"sync"

	"lazaret/firewall"
	"lazaret/internal/console/api"
	"lazaret/internal/form"
	"lazaret/quarantine"
)

var nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`) })

func checkName(kind, path, body string) error {
	if !nameForm().MatchString(path) {
		return bad("use 1 to 64 lower-case letters, digits, dots, hyphens and underscores", "%s name %q", kind, path)
	}
	if body != "" && body != path {
		return bad("send the same name in both places", "the path says %q and the body %q", path, body)
	}
	return nil
}

// listed answers with every value of a table, in its API shape.
func listed[T, A any](w http.ResponseWriter, r *http.Request, t Table[T], show func(Item[T]) A) error {
	list, err := t.List(r.Context())
	if err != nil {
		return err
	}
	out := make([]A, len(list))
	for i, it := range list {
		out[i] = show(it)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// saved writes a value and answers with it as it is now.
func saved[T, A any](w http.ResponseWriter, r *http.Request, who identity, t Table[T], it Item[T], show func(Item[T]) A) error {
	kept, err := t.Put(r.Context(), who.actor, it)
	if err != nil {
		return fmt.Errorf("saving %s: %w", it.Name, err)
	}
	reply(w, http.StatusOK, show(kept))
	return nil
}

// deleted removes a value; ?revision= makes sure that it is the one last read.
func deleted[T any](w http.ResponseWriter, r *http.Request, who identity, t Table[T]) error {
	var revision int64
	if q := r.URL.Query().Get("revision"); q != "" {
		n, err := strconv.ParseInt(q, 10, 64)
		if err != nil {
			return bad("send the number that the list shows", "revision is %q", q)
		}
		revision = n
	}
	if err := t.Delete(r.Context(), who.actor, r.PathValue("name"), revision); err != nil {
		return fmt.Errorf("deleting %s: %w", r.PathValue("name"), err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) listPools(w http.ResponseWriter, r *http.Request, _ identity) error {
	return listed(w, r, s.cfg.Organization.Pools, showPool)
}

func (s *Server) putPool(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.Pool
	if err := read(r, &q); err != nil {
		return err
	}
	name := r.PathValue("name")
	if err := checkName("pool", name, q.Name); err != nil {
		return err
	}
	p, err := poolFrom(name, q)
	if err != nil {
		return err
	}
	all, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	p.Mark = all[name].Mark
	numbered := p
	if p.Mark == 0 && !p.Quarantine {
		numbered.Mark = freeMark(all) // for the check; the store gives a new pool its own
	}
	all[name] = numbered
	if err := s.checkPools(all); err != nil {
		return err
	}
	return saved(w, r, who, s.cfg.Organization.Pools, Item[quarantine.Pool]{Name: name, Value: p, Revision: q.Revision}, showPool)
}

// checkPools refuses a set of pools that cannot be enforced, or in which a seat that was
// given out has no address.
func (s *Server) checkPools(all map[string]quarantine.Pool) error {
	if err := quarantine.CheckPools(all, s.cfg.Gate.HighestSeat()); err != nil {
		return bad("correct the pool and save it again", "%v", err)
	}
	return nil
}

// freeMark is one that no pool has.
func freeMark(all map[string]quarantine.Pool) firewall.Mark {
	var m firewall.Mark
	for _, p := range all {
		m = max(m, p.Mark)
	}
	return m + 1
}

func (s *Server) deletePool(w http.ResponseWriter, r *http.Request, who identity) error {
	name := r.PathValue("name")
	profiles, err := s.cfg.Organization.Profiles.List(r.Context())
	if err != nil {
		return err
	}
	for _, p := range profiles {
		if p.Value.Pool == name {
			return fmt.Errorf("pool %s is named by profile %s: %w", name, p.Name, ErrInUse)
		}
	}
	all, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	if all[name].Quarantine {
		return fmt.Errorf("pool %s is the quarantine pool: %w", name, ErrInUse)
	}
	return deleted(w, r, who, s.cfg.Organization.Pools)
}

func poolFrom(name string, q api.Pool) (quarantine.Pool, error) {
	p := quarantine.Pool{Name: name, Quarantine: q.Quarantine, IPv4: q.IPv4, IPv6: q.IPv6, DNS: q.DNS, Masquerade: q.Masquerade,
		Allow: q.Allow, Forward: q.Forward, NeedUser: q.NeedUser}
	for _, text := range q.Reach {
		if err := AddReach(&p, text); err != nil {
			return p, err
		}
	}
	for _, text := range q.Routes {
		to, err := netip.ParsePrefix(text)
		if err != nil || to != to.Masked() {
			return p, bad(`write networks like "10.0.0.0/8"`, "route %q", text)
		}
		p.Routes = append(p.Routes, to)
	}
	return p, nil
}

func showPool(it Item[quarantine.Pool]) api.Pool {
	p := it.Value
	out := api.Pool{
		Name: it.Name, Quarantine: p.Quarantine, IPv4: p.IPv4, IPv6: p.IPv6, Reach: []string{}, Routes: []string{},
		DNS: append([]netip.Addr{}, p.DNS...), Masquerade: p.Masquerade, Revision: it.Revision,
		Allow: append([]netip.Prefix{}, p.Allow...), Forward: p.Forward, NeedUser: p.NeedUser,
	}
	for _, r := range p.Reach {
		out.Reach = append(out.Reach, FormatReach(r))
	}
	for _, n := range p.Named {
		out.Reach = append(out.Reach, formatReach(n.Name, n.Protocol, n.From, n.Up))
	}
	for _, r := range p.Routes {
		out.Routes = append(out.Routes, r.String())
	}
	return out
}

// showNames tells what the names in a pool's reach resolve to, and what of it is open.
func (s *Server) showNames(w http.ResponseWriter, r *http.Request, _ identity) error {
	all, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	p, ok := all[r.PathValue("name")]
	if !ok {
		return fmt.Errorf("pool %q: %w", r.PathValue("name"), ErrNotFound)
	}
	list := []api.Name{}
	if s.cfg.Names != nil {
		list = append(list, s.cfg.Names(p)...)
	}
	reply(w, http.StatusOK, list)
	return nil
}

// AddReach reads one thing that a pool reaches, as form.ParseReach has it.
func AddReach(p *quarantine.Pool, text string) error {
	r, err := form.ParseReach(text)
	switch {
	case err != nil:
		return bad(`write it like "192.0.2.10 tcp/443" or "mdm.example.com tcp/443"`, "reach %q: %v", text, err)
	case r.Name != "":
		p.Named = append(p.Named, quarantine.NamedReach{Name: r.Name, Protocol: firewall.Protocol(r.Protocol), From: r.From, Up: r.Up})
	default:
		p.Reach = append(p.Reach, firewall.Reach{To: r.To, Protocol: firewall.Protocol(r.Protocol), From: r.From, Up: r.Up})
	}
	return nil
}

// FormatReach writes what AddReach reads.
func FormatReach(r firewall.Reach) string {
	return formatReach(r.To.String(), r.Protocol, r.From, r.Up)
}

func formatReach(to string, protocol firewall.Protocol, from, up uint16) string {
	switch {
	case protocol == "":
		return to
	case from == 0:
		return fmt.Sprintf("%s %s", to, protocol)
	case from == up:
		return fmt.Sprintf("%s %s/%d", to, protocol, from)
	default:
		return fmt.Sprintf("%s %s/%d-%d", to, protocol, from, up)
	}
}

func (s *Server) listProfiles(w http.ResponseWriter, r *http.Request, _ identity) error {
	return listed(w, r, s.cfg.Organization.Profiles, showProfile)
}

func (s *Server) putProfile(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.Profile
	if err := read(r, &q); err != nil {
		return err
	}
	name := r.PathValue("name")
	if err := checkName("profile", name, q.Name); err != nil {
		return err
	}
	all, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	if pool, ok := all[q.Pool]; !ok || pool.Quarantine {
		return bad("name a full pool: lazaretctl pool list", "profile %s releases into %q, which is no full pool", name, q.Pool)
	}
	addressing := quarantine.Addressing(q.Addressing)
	if q.Addressing == "follow" {
		addressing = quarantine.Follow
	} else if addressing != quarantine.Follow && addressing != quarantine.Fixed {
		return bad(`write "follow" or "fixed"`, "addressing is %q", q.Addressing)
	}
	if q.SkipQuarantine && !who.can(GrantRelease) {
		return fmt.Errorf("granting %s: %w", GrantRelease, errDenied)
	}
	p := quarantine.Profile{
		Name: name, Pool: q.Pool, SkipQuarantine: q.SkipQuarantine, NeedApproval: q.NeedApproval, Platforms: q.Platforms,
		Ownerships: q.Ownerships, NeedSerial: q.NeedSerial, AllowRSA: q.AllowRSA, Addressing: addressing, Groups: q.Groups,
	}
	return saved(w, r, who, s.cfg.Organization.Profiles, Item[quarantine.Profile]{Name: name, Value: p, Revision: q.Revision}, showProfile)
}

func (s *Server) deleteProfile(w http.ResponseWriter, r *http.Request, who identity) error {
	if d, used := s.cfg.Gate.UsesProfile(r.PathValue("name")); used {
		return fmt.Errorf("profile %s has device %s: %w", d.Profile, d.Name, ErrInUse)
	}
	return deleted(w, r, who, s.cfg.Organization.Profiles)
}

func showProfile(it Item[quarantine.Profile]) api.Profile {
	p := it.Value
	return api.Profile{
		Name: it.Name, Pool: p.Pool, SkipQuarantine: p.SkipQuarantine, NeedApproval: p.NeedApproval,
		Platforms: append([]string{}, p.Platforms...), Ownerships: append([]string{}, p.Ownerships...),
		NeedSerial: p.NeedSerial, AllowRSA: p.AllowRSA, Addressing: string(p.Addressing), Groups: append([]string{}, p.Groups...), Revision: it.Revision,
	}
}
