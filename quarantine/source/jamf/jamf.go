// Package jamf reads computers and mobile devices, and the smart groups that they are in,
// from Jamf Pro.
//
// What it reads is documented in the Jamf Pro API reference, "Return paginated Computer
// Inventory records" (computers-inventory, sections GENERAL, HARDWARE, OPERATING_SYSTEM,
// DISK_ENCRYPTION, SECURITY and GROUP_MEMBERSHIPS) and "Return paginated Mobile Device
// Inventory records" (mobile-devices/detail); tokens in "Client Credentials"; webhooks in
// "Webhooks" of the same site. All were read in November 2026. Nothing here was tried on a
// live Jamf Pro.
//
// Jamf Pro has no verdict of its own. As in its own partner integrations, a smart group that
// an administrator defines is the verdict: who is in it is compliant. Membership is computed
// from inventory, so a verdict is as old as the inventory, however often the device checks in.
package jamf

import (
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
)

// Validity is what a Jamf source gets: inventory is collected once a day by default.
const Validity = 26 * time.Hour

// Settings are what an administrator says of a Jamf Pro server.
type Settings struct {
	poll.Common
	ClientID    string `json:"client_id"`              // of the API client made for this gateway
	Group       string `json:"group,omitempty"`        // smart computer group, by ID or name; empty: no computers are read
	MobileGroup string `json:"mobile_group,omitempty"` // smart mobile device group; empty: none are read
	API         string `json:"api,omitempty"`          // version of computers-inventory: v1 to v4; empty: v3
}

var versionForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^v[1-4]$`) })

// Kind is Jamf Pro for whoever configures it. Secret "client_secret" is the API client's; its
// role needs Read Computers, Read Mobile Devices and the like for what is read. "hook" is what
// webhooks show.
var Kind = poll.Kind{
	Kind: quarantine.SourceJamf, Validity: Validity, Secrets: []string{"client_secret"}, Optional: []string{poll.SecretHook},
	New: func(raw []byte, secrets map[string]string) (poll.Setup, error) {
		s := Settings{API: "v3"}
		if err := poll.ReadSettings(raw, &s); err != nil {
			return poll.Setup{}, err
		}
		var faults []error
		if s.ClientID == "" || len(s.ClientID) > 128 {
			faults = append(faults, errors.New("client_id: it is needed"))
		}
		if s.Group == "" && s.MobileGroup == "" {
			faults = append(faults, errors.New("group: name a smart group, of computers or (mobile_group) of mobile devices"))
		}
		if !versionForm().MatchString(s.API) {
			faults = append(faults, fmt.Errorf("api: %.40q is none of v1 to v4", s.API))
		}
		at, err := poll.CheckURL(s.URL)
		if err != nil {
			return poll.Setup{}, errors.Join(append(faults, fmt.Errorf("url: %w", err))...)
		}
		auth := &poll.Credentials{Endpoint: at.JoinPath("api/oauth/token").String(), ID: s.ClientID, Secret: secrets["client_secret"]}
		setup, err := s.Setup(poll.Setup{Product: &Jamf{s.Group, s.MobileGroup, s.API}, Auth: auth, Read: ReadHook})
		return setup, errors.Join(append(faults, err)...)
	},
}
