package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"lazaret/appliance/claim"
	"lazaret/internal/audit"
	"lazaret/internal/config"
	"lazaret/internal/making"
)

// administratorMade is the audit log's word for it.
const administratorMade = "administrator.make"

// MakeAdministrator makes a new administrator of the gateway that is there, for whoever has
// shown at the machine's screen that he stands before it. The control plane must not run:
// its store is opened here. Nothing else of the gateway changes; administrators that there
// are stay. The certificate is handed out only once the audit log has it. What is wrong with
// the claim is a *claim.Refusal.
func MakeAdministrator(ctx context.Context, q making.Request, at making.Places, log *slog.Logger, step func(string)) (made making.Made, err error) {
	if !q.Claim.AdministratorOnly {
		return making.Made{}, &claim.Refusal{Kind: claim.Invalid, What: "the request is for more than an administrator"}
	}
	key, err := checkClaim(q.Claim)
	if err != nil {
		return making.Made{}, err
	}
	c, err := config.Load(at.Config)
	if err != nil {
		return making.Made{}, err
	}
	step("Opening the gateway's store.")
	s, _, err := openStore(ctx, c, log)
	if err != nil {
		return making.Made{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ca, err := loadAuthorities(ctx, s.Secrets())
	if err != nil {
		return making.Made{}, err
	}
	step("Issuing the administrator's certificate.")
	name := cmp.Or(q.Claim.Setup.Administrator, DefaultAdministrator)
	certs, err := administratorChain(ctx, ca.Authority, name, key)
	if err != nil {
		return making.Made{}, err
	}
	if err := s.Audit(ctx, audit.Entry{
		Actor: audit.Actor{Kind: "gateway", Name: "screen"}, Action: administratorMade, Subject: name,
		Detail: map[string]string{"how": "administrator made at the machine's screen", "serial": certs[0].SerialNumber.Text(16), "sha256": certificateSum(certs[0])},
	}); err != nil {
		return making.Made{}, err
	}
	if err := s.FlushAudit(ctx); err != nil {
		return making.Made{}, err
	}
	made.Answer = claim.Answer{
		Version: 1, Name: c.Name, API: apiURL(c), Enroll: (&control{config: c}).enrollURL(), Root: ca.Root().Raw, RootSHA256: certificateSum(ca.Root()),
	}
	for _, cert := range certs {
		made.Answer.Administrator = append(made.Answer.Administrator, cert.Raw)
	}
	step("The administrator is made.")
	return made, nil
}
