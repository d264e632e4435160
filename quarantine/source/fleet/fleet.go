// Package fleet reads hosts and their policies from Fleet (fleetdm.com).
//
// What it reads is documented in Fleet's "REST API" (docs/REST API/rest-api.md of
// fleetdm/fleet), "List hosts" and "Get host": hardware_serial, policy_updated_at, seen_time
// and policies with the responses "pass", "fail" and "" (not run yet). Its failing-policies
// webhook is documented in "Automations" (docs/Using-Fleet/Automations.md). Both were read in
// November 2026. Nothing here was tried on a live Fleet.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
)

// Validity is what a Fleet source gets: hosts run policies every hour by default.
const Validity = 2 * time.Hour

const (
	hostsPath = "/api/v1/fleet/hosts"
	perPage   = 200
	maxPages  = poll.MaxHosts / perPage * 4 // a server may give less on each
)

// Settings are what an administrator says of a Fleet server.
type Settings struct {
	poll.Common
	Policies poll.List `json:"policies,omitempty"` // names or numbers of those that must pass; empty: all
}

// Kind is Fleet for whoever configures it. Secret "token" is the API token of an API-only
// user with the role observer; "hook" is part of the webhook's path.
var Kind = poll.Kind{
	Kind: quarantine.SourceFleet, Validity: Validity, Secrets: []string{"token"}, Optional: []string{poll.SecretHook},
	New: func(raw []byte, secrets map[string]string) (poll.Setup, error) {
		var s Settings
		if err := poll.ReadSettings(raw, &s); err != nil {
			return poll.Setup{}, err
		}
		return s.Setup(poll.Setup{Product: &Fleet{s.Policies}, Auth: poll.Bearer(secrets["token"]), Read: ReadHook})
	},
}

// Fleet is a poll.Product.
type Fleet struct {
	policies []string // empty: all
}

// Hosts implements poll.Product. It ends at the first page without hosts: a server may give
// less than it is asked for.
func (f *Fleet) Hosts(ctx context.Context, c *poll.Client, take func([]poll.Host) error) error {
	for page := range maxPages {
		body, err := c.Get(ctx, hostsPath, url.Values{
			"populate_policies": {"true"}, "page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(perPage)},
			"order_key": {"id"},
		})
		if err != nil {
			return err
		}
		hosts, err := f.ReadPage(body)
		if err != nil {
			return fmt.Errorf("reading hosts of %s: %w", c.Host(), err)
		}
		if len(hosts) == 0 {
			return nil
		}
		if err := take(hosts); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s has more than %d pages of hosts", c.Host(), maxPages)
}

// Host implements poll.Single.
func (f *Fleet) Host(ctx context.Context, c *poll.Client, id string) (poll.Host, error) {
	if _, err := strconv.ParseUint(id, 10, 63); err != nil {
		return poll.Host{}, fmt.Errorf("%.40q is no number of a host", id)
	}
	body, err := c.Get(ctx, hostsPath+"/"+id, nil)
	if s, ok := errors.AsType[*poll.StatusError](err); ok && s.Code == http.StatusNotFound {
		return poll.Host{}, poll.ErrGone
	}
	if err != nil {
		return poll.Host{}, err
	}
	o, err := poll.ReadObject(body)
	if err != nil {
		return poll.Host{}, err
	}
	in := o.Object("host")
	if err := o.Err(); err != nil {
		return poll.Host{}, fmt.Errorf("reading host %s of %s: %w", id, c.Host(), err)
	}
	return f.host(in), nil
}

// ReadPage reads one page of "List hosts".
func (f *Fleet) ReadPage(body []byte) ([]poll.Host, error) {
	o, err := poll.ReadObject(body)
	if err != nil {
		return nil, err
	}
	page := o.Page("hosts")
	if err := o.Err(); err != nil {
		return nil, err
	}
	hosts := make([]poll.Host, len(page))
	for i, in := range page {
		hosts[i] = f.host(in)
	}
	return hosts, nil
}

// host reads one host. The verdict rests on when its policies were run.
func (f *Fleet) host(o *poll.Object) poll.Host {
	h := poll.Host{Serial: o.Text("hardware_serial"), Name: o.Text("computer_name"), Facts: map[string]string{}}
	h.ID, h.CheckedIn = o.ID("id"), o.Time("policy_updated_at")
	if seen := o.Time("seen_time"); seen.Before(h.CheckedIn) {
		h.CheckedIn = seen
	}
	f.judge(&h, o.Objects("policies"))
	if err := o.Err(); err != nil {
		h.Fault = err.Error()
		return h
	}
	o.Known(h.Facts, "device.serial", "hardware_serial")
	o.Known(h.Facts, "device.model", "hardware_model")
	o.Known(h.Facts, "device.manufacturer", "hardware_vendor")
	poll.PutSystem(h.Facts, o.Plain("platform"))
	poll.PutVersion(h.Facts, o.Plain("os_version"))
	o.Known(h.Facts, "disk.encrypted", "disk_encryption_enabled") // "Get host" alone tells
	return h
}

// judge sets the verdict by the policies that must pass.
func (f *Fleet) judge(h *poll.Host, policies []*poll.Object) {
	var failing, open []string
	found := map[string]bool{}
	for _, p := range policies {
		id, name := p.ID("id"), p.Text("name")
		response := p.Enum("response", "pass", "fail", "")
		if p.Err() != nil {
			return // the host's fault
		}
		state := response
		if state == "" {
			state = "unknown"
		}
		fact := "fleet.policy." + slug(name)
		poll.Put(h.Facts, fact, worse(h.Facts[fact], state))
		found[id], found[name] = true, true
		if len(f.policies) > 0 && !slices.Contains(f.policies, id) && !slices.Contains(f.policies, name) {
			continue
		}
		switch response {
		case "fail":
			failing = append(failing, name)
		case "":
			open = append(open, name)
		}
	}
	for _, want := range f.policies {
		if !found[want] {
			open = append(open, want)
		}
	}
	switch {
	case len(failing) > 0:
		h.Verdict, h.Detail = quarantine.NonCompliant, "failing policies: "+strings.Join(failing, ", ")
	case len(open) > 0:
		h.Detail = "policies without an answer: " + strings.Join(open, ", ")
	case len(policies) == 0:
		h.Detail = "no policy is for this host"
	default:
		h.Verdict, h.Detail = quarantine.Compliant, "all its policies pass"
	}
}

// worse is what two policies say whose names make one fact: a good word hides no bad one.
func worse(a, b string) string {
	for _, state := range []string{"fail", "unknown"} {
		if a == state || b == state {
			return state
		}
	}
	return b
}

// slug is a policy's name as part of a fact's name: lower case letters, digits and "_".
func slug(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
		}
		if b.Len() >= 48 {
			break
		}
	}
	return strings.TrimSuffix(b.String(), "_")
}

// ReadHook reads the failing-policies webhook: which hosts it is about, and nothing else.
func ReadHook(body []byte) ([]string, error) {
	var hook struct {
		Hosts []struct {
			ID json.Number `json:"id"`
		} `json:"hosts"`
	}
	if err := json.Unmarshal(body, &hook); err != nil {
		return nil, errors.New("it is no webhook of Fleet's")
	}
	var ids []string
	for _, h := range hook.Hosts {
		if n, err := h.ID.Int64(); err == nil && n > 0 {
			ids = append(ids, strconv.FormatInt(n, 10))
		}
	}
	return ids, nil
}
