package console

import (
	"encoding/pem"
	"net/http"
	"slices"

	_ "embed"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
)

// route is one line of the table of who may do what. A route without need is refused.
// The rest describes it, for openapi.json.
type route struct {
	pattern string
	need    Permission
	handle  func(s *Server, w http.ResponseWriter, r *http.Request, who identity) error
	summary string
	in, out any // shapes of the bodies; nil: none
	status  int // of success
}

// routes is the whole administration API; what is not here does not exist.
func (s *Server) routes() []route {
	return slices.Concat(s.coreRoutes(), s.deviceRoutes(), s.commandRoutes(), s.sourceRoutes(), s.signalRoutes(), s.hookRoutes(), s.streamRoutes(), s.policyRoutes(), s.attestRoutes(), s.alertRoutes(), s.machineRoutes(), s.certificateRoutes())
}

// coreRoutes are those that no file of their own lists.
func (s *Server) coreRoutes() []route {
	const ok, created, none = http.StatusOK, http.StatusCreated, http.StatusNoContent
	return []route{
		{"GET /api/v1/openapi.json", anyone, (*Server).describe, "This description.", nil, nil, ok},
		{"GET /api/v1/root", anyone, (*Server).root, "The organization's root certificate, PEM.", nil, nil, ok},
		{"GET /api/v1/status", ReadStatus, (*Server).status, "State of the gateway.", nil, api.Status{}, ok},

		{"GET /api/v1/otps", ReadOTPs, (*Server).listOTPs, "One-time passwords, without their secrets.", nil, []api.OTP{}, ok},
		{"POST /api/v1/otps", WriteOTPs, (*Server).createOTP, "Create a one-time password; the only answer that bears the code.", api.OTPRequest{}, api.OTPCreated{}, created},
		{"DELETE /api/v1/otps/{reference}", WriteOTPs, (*Server).cancelOTP, "Cancel a pending one-time password.", nil, nil, none},

		{"GET /api/v1/devices", ReadDevices, (*Server).listDevices, "Devices; ?stage= selects.", nil, []api.Device{}, ok},
		{"GET /api/v1/devices/{device}", ReadDevices, (*Server).showDevice, "One device, by id, name or serial number.", nil, api.Device{}, ok},
		{"GET /api/v1/devices/{device}/explain", ReadDevices, (*Server).explainDevice, "Why the device is where it is.", nil, api.Explanation{}, ok},
		{"GET /api/v1/devices/{device}/tunnel", ReadDevices, (*Server).deviceTunnel, "What a stock WireGuard app on the device needs.", nil, api.Tunnel{}, ok},
		{"POST /api/v1/devices/{device}/{action}", WriteDevices, (*Server).moveDevice, "Approve, quarantine, block, unblock or revoke a device.", api.ActionRequest{}, api.Placed{}, ok},

		{"POST /api/v1/devices/{device}/wipe", WipeDevices, (*Server).wipeDevice, "Tell a device to wipe what enrollment gave.", api.ActionRequest{}, api.Placed{}, ok},
		{"POST /api/v1/devices/{device}/unwipe", WipeDevices, (*Server).wipeDevice, "Take the order to wipe back.", api.ActionRequest{}, api.Placed{}, ok},

		{"POST /api/v1/reports", WriteReports, (*Server).report, "A management server's word on a device.", api.ReportRequest{}, api.Placed{}, ok},
		{"POST /api/v1/reports/batch", WriteReports, (*Server).reports, "A management server's word on many devices, 10000 at most; the answer has a line for each.", []api.ReportRequest{}, []api.Reported{}, ok},

		{"GET /api/v1/pools", ReadOrganization, (*Server).listPools, "Pools.", nil, []api.Pool{}, ok},
		{"PUT /api/v1/pools/{name}", WriteOrganization, (*Server).putPool, "Create a pool (revision 0) or change it.", api.Pool{}, api.Pool{}, ok},
		{"GET /api/v1/pools/{name}/names", ReadOrganization, (*Server).showNames, "What the names in a pool's reach resolve to, and what of it is open.", nil, []api.Name{}, ok},
		{"DELETE /api/v1/pools/{name}", WriteOrganization, (*Server).deletePool, "Delete a pool that nothing refers to.", nil, nil, none},
		{"GET /api/v1/profiles", ReadOrganization, (*Server).listProfiles, "Enrollment profiles.", nil, []api.Profile{}, ok},
		{"PUT /api/v1/profiles/{name}", WriteOrganization, (*Server).putProfile, "Create an enrollment profile (revision 0) or change it.", api.Profile{}, api.Profile{}, ok},
		{"DELETE /api/v1/profiles/{name}", WriteOrganization, (*Server).deleteProfile, "Delete a profile that no device has.", nil, nil, none},

		{"GET /api/v1/tokens", ReadTokens, (*Server).listTokens, "API tokens, without their secrets.", nil, []api.Token{}, ok},
		{"POST /api/v1/tokens", WriteTokens, (*Server).createToken, "Create a token; the only answer that bears its secret.", api.TokenRequest{}, api.Token{}, created},
		{"GET /api/v1/tokens/{name}", ReadTokens, (*Server).showToken, "One API token, and what came of it.", nil, api.Token{}, ok},
		{"DELETE /api/v1/tokens/{name}", WriteTokens, (*Server).deleteToken, "Delete a token and all that came of it; they stop working at once.", nil, api.TokensDeleted{}, ok},
		{"GET /api/v1/roles", anyone, (*Server).listRoles, "Roles, and the permissions that each has.", nil, api.Roles{}, ok},

		{"GET /api/v1/audit", ReadAudit, (*Server).listAudit, "Audit entries, newest first; ?device=, ?since= and ?limit= select.", nil, []api.AuditEntry{}, ok},
		{"GET /api/v1/audit/head", ReadAudit, (*Server).auditHead, "The head of the audit chain, to keep elsewhere.", nil, audit.Head{}, ok},
		{"GET /api/v1/audit/export", ReadAudit, (*Server).exportAudit, "All audit segments, as a tar archive.", nil, nil, ok},
	}
}

// guard lets a request through only for an identity that has what the route needs, about a
// device that exists for it.
func (s *Server) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.admit(r, rt)
		if err == nil {
			err = rt.handle(s, w, r, who)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

//go:embed openapi.json
var description []byte

func (s *Server) describe(w http.ResponseWriter, r *http.Request, _ identity) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(description)
	return err
}

func (s *Server) root(w http.ResponseWriter, r *http.Request, _ identity) error {
	w.Header().Set("Content-Type", "application/x-pem-file")
	return pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.cfg.Root.Raw})
}
