// Package intune reads managed devices from Microsoft Intune, through Microsoft Graph.
//
// What it reads is documented in Microsoft Graph's "List managedDevices" and "managedDevice
// resource type" (v1.0, Intune, devices): complianceState with its values, lastSyncDateTime,
// serialNumber, isEncrypted, jailBroken, osVersion; paging by @odata.nextLink in "Paging
// Microsoft Graph data in your app"; 429 and Retry-After in "Microsoft Graph throttling
// guidance"; tokens in "OAuth 2.0 client credentials flow" of the Microsoft identity
// platform. All were read in November 2026. Graph has no change tracking (delta) for managed
// devices, so every round reads all. Nothing here was tried on a live tenant.
package intune

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
)

// Validity is what an Intune source gets: devices check in every eight hours.
const Validity = 24 * time.Hour

const (
	graph    = "https://graph.microsoft.com"
	login    = "https://login.microsoftonline.com"
	maxPages = poll.MaxHosts / 50
	fields   = "id,deviceName,serialNumber,complianceState,lastSyncDateTime,complianceGracePeriodExpirationDateTime," +
		"isEncrypted,jailBroken,operatingSystem,osVersion,model,manufacturer,managementAgent,deviceEnrollmentType"
)

// Settings are what an administrator says of a tenant.
type Settings struct {
	poll.Common
	Tenant   string `json:"tenant"`             // its ID or domain
	ClientID string `json:"client_id"`          // of the application registered for this gateway
	Login    string `json:"login,omitempty"`    // identity platform of a national cloud
	Grace    bool   `json:"in_grace,omitempty"` // a device in its grace period counts as compliant until that ends
}

var tenantForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,127}$`) })

// Kind is Intune for whoever configures it. Secret "client_secret" is the application's; its
// permission is DeviceManagementManagedDevices.Read.All, as application.
var Kind = poll.Kind{
	Kind: quarantine.SourceIntune, Validity: Validity, Secrets: []string{"client_secret"},
	New: func(raw []byte, secrets map[string]string) (poll.Setup, error) {
		s := Settings{Common: poll.Common{URL: graph}, Login: login}
		if err := poll.ReadSettings(raw, &s); err != nil {
			return poll.Setup{}, err
		}
		var faults []error
		if !tenantForm().MatchString(s.Tenant) {
			faults = append(faults, fmt.Errorf("tenant: %.40q is neither an ID nor a domain", s.Tenant))
		}
		if s.ClientID == "" || len(s.ClientID) > 128 {
			faults = append(faults, errors.New("client_id: it is needed"))
		}
		at, err := poll.CheckURL(s.Login)
		if err != nil {
			return poll.Setup{}, errors.Join(append(faults, fmt.Errorf("login: %w", err))...)
		}
		auth := &poll.Credentials{
			Endpoint: at.JoinPath(s.Tenant, "oauth2/v2.0/token").String(), ID: s.ClientID, Secret: secrets["client_secret"],
			Scope: strings.TrimSuffix(s.URL, "/") + "/.default",
		}
		setup, err := s.Setup(poll.Setup{Product: &Intune{s.Grace}, Auth: auth})
		return setup, errors.Join(append(faults, err)...)
	},
}

// Intune is a poll.Product.
type Intune struct {
	grace bool
}

// Hosts implements poll.Product: it follows the links that the server gives.
func (n *Intune) Hosts(ctx context.Context, c *poll.Client, take func([]poll.Host) error) error {
	body, err := c.Get(ctx, "/v1.0/deviceManagement/managedDevices", url.Values{"$select": {fields}})
	for range maxPages {
		if err != nil {
			return err
		}
		hosts, next, err := n.ReadPage(body)
		if err != nil {
			return fmt.Errorf("reading devices of %s: %w", c.Host(), err)
		}
		if err := take(hosts); err != nil {
			return err
		}
		if next == "" {
			return nil
		}
		body, err = c.Follow(ctx, next)
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s has more than %d pages of devices", c.Host(), maxPages)
}

// ReadPage reads one page, and where the next one is.
func (n *Intune) ReadPage(body []byte) (hosts []poll.Host, next string, err error) {
	o, err := poll.ReadObject(body)
	if err != nil {
		return nil, "", err
	}
	page := o.Page("value")
	if o.Has("@odata.nextLink") {
		if next = o.Text("@odata.nextLink"); next == "" {
			o.Fail("@odata.nextLink", "is empty")
		}
	}
	if err := o.Err(); err != nil {
		return nil, "", err
	}
	hosts = make([]poll.Host, len(page))
	for i, in := range page {
		hosts[i] = n.host(in)
	}
	return hosts, next, nil
}

// host reads one device. Its serial number may be missing: some have none.
func (n *Intune) host(o *poll.Object) poll.Host {
	h := poll.Host{Facts: map[string]string{}}
	if o.Has("serialNumber") {
		h.Serial = o.Text("serialNumber")
	}
	if o.Has("deviceName") {
		h.Name = o.Text("deviceName")
	}
	h.ID, h.CheckedIn = o.ID("id"), o.Time("lastSyncDateTime")
	n.judge(&h, o)
	if err := o.Err(); err != nil {
		h.Fault = err.Error()
		return h
	}
	o.Known(h.Facts, "device.serial", "serialNumber")
	o.Known(h.Facts, "device.model", "model")
	o.Known(h.Facts, "device.manufacturer", "manufacturer")
	poll.PutSystem(h.Facts, o.Plain("operatingSystem"))
	poll.PutVersion(h.Facts, o.Plain("osVersion"))
	o.Known(h.Facts, "disk.encrypted", "isEncrypted")
	if is := strings.ToLower(o.Plain("jailBroken")); is == "true" || is == "false" { // or "Unknown"
		poll.Put(h.Facts, "device.jailbroken", is)
	}
	o.Known(h.Facts, "custom.intune.agent", "managementAgent")
	o.Known(h.Facts, "custom.intune.enrollment", "deviceEnrollmentType")
	return h
}

// judge sets the verdict by the compliance state.
func (n *Intune) judge(h *poll.Host, o *poll.Object) {
	state := o.Enum("complianceState", "unknown", "compliant", "noncompliant", "conflict", "error", "inGracePeriod", "configManager")
	h.Detail = "Intune says " + state
	switch state {
	case "compliant":
		h.Verdict = quarantine.Compliant
	case "noncompliant", "conflict":
		h.Verdict = quarantine.NonCompliant
	case "inGracePeriod":
		h.Verdict = quarantine.NonCompliant
		if !n.grace {
			break
		}
		until := o.Time("complianceGracePeriodExpirationDateTime")
		if left := until.Sub(h.CheckedIn); left > 0 && !h.CheckedIn.IsZero() {
			h.Verdict, h.Validity = quarantine.Compliant, left
			h.Detail += " until " + until.Format(time.RFC3339)
		}
	}
}
