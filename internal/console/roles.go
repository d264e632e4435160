package console

import (
	"net/http"
	"slices"

	"lazaret/internal/console/api"
)

// Permission names one thing an identity may do. A route without one is open to nobody.
type Permission string

const (
	ReadStatus        Permission = "status.read"
	WriteAlerts       Permission = "alert.write"
	ReadOTPs          Permission = "otp.read"
	WriteOTPs         Permission = "otp.write"
	ReadDevices       Permission = "device.read"
	WriteDevices      Permission = "device.write"
	CommandDevices    Permission = "device.command"
	WipeDevices       Permission = "device.wipe"
	WriteSessions     Permission = "session.write"
	WriteReports      Permission = "report.write"
	ReadOrganization  Permission = "organization.read"
	WriteOrganization Permission = "organization.write"
	GrantRelease      Permission = "release.grant"
	ReadTokens        Permission = "token.read"
	WriteTokens       Permission = "token.write"
	ReadAudit         Permission = "audit.read"
	ReadMachine       Permission = "machine.read"
	WriteMachine      Permission = "machine.write"
	ReadCertificate   Permission = "certificate.read"
	WriteCertificate  Permission = "certificate.write"

	anyone Permission = "anyone" // the API description, the roles and the root certificate
)

// permissions are all that there are, and what each lets its holder do.
var permissions = []struct {
	name Permission
	text string
}{
	{ReadStatus, "see the gateway's state and its alerts"},
	{WriteAlerts, "acknowledge and resolve alerts"},
	{ReadOTPs, "list one-time passwords, without their codes"},
	{WriteOTPs, "create and cancel one-time passwords"},
	{ReadDevices, "see devices, why they are where they are, and their commands"},
	{WriteDevices, "approve, quarantine, block, unblock and revoke devices, waive rules, change groups and what is known of TPMs"},
	{CommandDevices, "order devices about"},
	{WipeDevices, "order a wipe or take it back; write rules and conduct that wipe"},
	{WriteSessions, "vouch for the sign-in of a device's user, and end it"},
	{WriteReports, "report compliance, and say who speaks as a source"},
	{ReadOrganization, "see pools, profiles, sources, policy sets, conduct, streams and outlets"},
	{WriteOrganization, "change them"},
	{GrantRelease, "let something release: a source, a policy set by the agent's word, a profile that skips quarantine"},
	{ReadTokens, "list tokens and keys, without their secrets"},
	{WriteTokens, "create and delete tokens and keys"},
	{ReadAudit, "read and export the audit log"},
	{ReadMachine, "see how an appliance does: its network, log, versions and updates, and have it check itself"},
	{WriteMachine, "change an appliance's network, clock and what keeps its data, update it, restart it, reset it"},
	{ReadCertificate, "see the server certificate, and how it is come by"},
	{WriteCertificate, "bring a server certificate, or have it got by ACME"},
}

// role is a named set of permissions.
type role struct {
	name string
	text string
	may  []Permission
}

// roles are all that there are.
var roles = []role{
	{"administrator", "everything", everything()},
	{"operator", "devices, commands and alerts", []Permission{ReadStatus, WriteAlerts, ReadOTPs, ReadDevices, WriteDevices, CommandDevices, WipeDevices, ReadOrganization}},
	{"helpdesk", "one-time passwords, and a look at devices", []Permission{ReadStatus, ReadOTPs, WriteOTPs, ReadDevices}},
	{"auditor", "sees everything and changes nothing", []Permission{ReadStatus, ReadOTPs, ReadDevices, ReadOrganization, ReadTokens, ReadAudit, ReadMachine, ReadCertificate}},
	{"read", "as auditor, but for tokens", []Permission{ReadStatus, ReadOTPs, ReadDevices, ReadOrganization, ReadAudit, ReadMachine, ReadCertificate}},
	{"report", "reports of one source", []Permission{WriteReports}},
	{"session", "vouches for the sign-in of devices' users", []Permission{WriteSessions}},
}

func everything() []Permission {
	all := make([]Permission, len(permissions))
	for i, p := range permissions {
		all[i] = p.name
	}
	return all
}

// scopes lists what each role may do, by the name that a token bears. An unknown one may do
// nothing. "admin" is the older name of administrator.
var scopes = byScope()

func byScope() map[string][]Permission {
	out := map[string][]Permission{"admin": everything()}
	for _, r := range roles {
		out[r.name] = r.may
	}
	return out
}

// besides is a permission that a route needs besides its own.
type besides struct {
	need Permission
	when string // empty: always, which guard sees to; else the route's own code does
}

// more lists what routes need besides their own permission, so that nobody comes by way of
// one permission at what another is for.
var more = map[string][]besides{
	"POST /api/v1/policies/try": {{ReadOrganization, ""}},
	// Whoever says where events go sees them.
	"POST /api/v1/streams":              {{ReadDevices, ""}},
	"PATCH /api/v1/streams/{name}":      {{ReadDevices, ""}},
	"POST /api/v1/streams/{name}/keys":  {{ReadDevices, ""}},
	"POST /api/v1/streams/{name}/token": {{ReadDevices, ""}},
	"PUT /api/v1/outlets/{name}":        {{ReadStatus, ""}},
	// Asking anew tells how the machine does.
	"POST /api/v1/machine/updates/check": {{ReadMachine, ""}},
	// Whoever says who speaks as a source speaks as it.
	"POST /api/v1/hooks/{source}/keys":    {{WriteReports, ""}, {GrantRelease, "the source may release"}},
	"PUT /api/v1/sources/{name}/ssf":      {{WriteReports, ""}, {GrantRelease, "the source may release"}},
	"PUT /api/v1/sources/{name}/settings": {{WriteReports, ""}, {GrantRelease, "the source may release"}},
	"PUT /api/v1/sources/{name}":          {{GrantRelease, "the source may release"}},
	// What stands against an account keeps its devices from being released.
	"DELETE /api/v1/sources/{name}/ssf/accounts/{account}": {{GrantRelease, "the source may release"}},
	"PUT /api/v1/policies/{name}":                          {{GrantRelease, "the agent's word releases"}, {WipeDevices, "a rule wipes"}},
	"PUT /api/v1/profiles/{name}":                          {{GrantRelease, "the profile skips quarantine"}},
	"PUT /api/v1/conduct":                                  {{WipeDevices, "inactive devices are wiped"}},

	"POST /api/v1/devices/{device}/commands":             {{WipeDevices, "the command is wipe or erase"}},
	"DELETE /api/v1/devices/{device}/commands/{command}": {{WipeDevices, "the command is wipe or erase"}},
}

// listRoles answers the table of roles and permissions.
func (s *Server) listRoles(w http.ResponseWriter, _ *http.Request, _ identity) error {
	reply(w, http.StatusOK, roleTable())
	return nil
}

func roleTable() api.Roles {
	out := api.Roles{}
	for _, p := range permissions {
		out.Permissions = append(out.Permissions, api.Permission{Name: string(p.name), Text: p.text})
	}
	for _, r := range roles {
		shown := api.Role{Name: r.name, Text: r.text}
		for _, p := range permissions {
			if slices.Contains(r.may, p.name) {
				shown.Permissions = append(shown.Permissions, string(p.name))
			}
		}
		out.Roles = append(out.Roles, shown)
	}
	return out
}
