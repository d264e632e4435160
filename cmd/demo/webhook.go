package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// hook is a source that sends signed webhooks.
type hook struct {
	url string
	key []byte
}

// connectHook makes a source of kind webhook and a key for it.
func (d *demo) connectHook(ctx context.Context) error {
	s := api.Source{Name: "mdm", Kind: "webhook", MayRelease: true, MaxValidity: "1h"}
	if err := d.operator.put(ctx, "/api/v1/sources/mdm", s, nil); err != nil {
		return err
	}
	var key api.HookKey
	if _, err := d.operator.post(ctx, "/api/v1/hooks/mdm/keys", nil, &key); err != nil {
		return err
	}
	var h api.Hook
	if err := d.operator.get(ctx, "/api/v1/hooks/mdm", &h); err != nil {
		return err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Secret, "whsec_"))
	d.hook = hook{h.URL, secret}
	return err
}

// sign makes a message as Standard Webhooks has it, by the standard library alone.
func (h hook) sign(body []byte) outsideRequest {
	id, at := "msg_"+rand.Text(), strconv.FormatInt(time.Now().Unix(), 10)
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", at)
	header.Set("webhook-signature", h.signature(id, at, body))
	return outsideRequest{h.url, header, body}
}

func (h hook) signature(id, at string, body []byte) string {
	m := hmac.New(sha256.New, h.key)
	fmt.Fprintf(m, "%s.%s.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// hookReport is a signed report on dev1.
func (d *demo) hookReport(verdict, detail string) (outsideRequest, error) {
	body, err := json.Marshal(map[string]any{"device": d.honest.enrolled.Device, "verdict": verdict, "at": time.Now().UTC(), "detail": detail})
	return d.hook.sign(body), err
}

// cutByHook is step k.
func (d *demo) cutByHook(ctx context.Context, r *result) error {
	if err := d.connectHook(ctx); err != nil {
		return err
	}
	bad, err := d.hookReport("noncompliant", "")
	if err != nil {
		return err
	}
	bad.Body = append(bad.Body, ' ') // no longer what was signed
	a, err := d.post(ctx, bad)
	if err != nil {
		return err
	}
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	r.figure("altered_status", a.Status)
	r.check(a.Status == http.StatusUnauthorized && x.Decided.Stage == "routed", "a webhook that was altered by one byte: %d, dev1 stays %s", a.Status, x.Decided.Stage)
	watch, err := d.watch(ctx)
	if err != nil {
		return err
	}
	err = d.cutOne(ctx, r, watch, d.honest, "", "a signed webhook says that dev1 is not compliant", func(ctx context.Context) (sent, answered testnet.Stamp, err error) {
		q, err := d.hookReport("noncompliant", "malware found")
		if err != nil {
			return 0, 0, err
		}
		return d.posting(q, http.StatusOK)(ctx)
	})
	if err != nil {
		return err
	}
	if err := watch.Stop(ctx); err != nil {
		return err
	}
	if a, err = d.post(ctx, d.signal); err != nil {
		return err
	}
	if x, err = d.operator.explain(ctx, d.honest.enrolled.Name); err != nil {
		return err
	}
	r.figure("replay_status", a.Status)
	r.figure("stage_after_replay", x.Decided.Stage)
	r.check(a.Status == http.StatusAccepted && x.Decided.Stage == "quarantined", "the event that released it, sent again: %d, and it stays %s (%s)", a.Status, x.Decided.Stage, x.Device.Reason)
	return nil
}
