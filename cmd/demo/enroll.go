package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"lazaret/enroll/code"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// createCodes is step a.
func (d *demo) createCodes(ctx context.Context, r *result) error {
	d.codes = map[string]api.OTPCreated{}
	for _, q := range []api.OTPRequest{
		{User: "alice", Name: "alice-laptop", Ownership: "corporate"},
		{User: "bob", Name: "bob-laptop"},
		{User: "carol", Name: "used"},
		{User: "carol", Name: "expired", Life: "1s"},
		{User: "carol", Name: "cancelled"},
	} {
		var o api.OTPCreated
		a, err := d.operator.post(ctx, "/api/v1/otps", q, &o)
		if err != nil {
			return err
		}
		d.codes[q.Name] = o
		if q.Name == "alice-laptop" {
			r.figure("create_ms", a.Answered.Sub(a.Sent))
			r.figure("reference", o.Reference)
			r.figure("expires", o.Expires)
			r.check(o.State == "pending" && len(o.Code) == 29, "code %s-… for alice, valid until %s, in %s",
				o.Code[:5], o.Expires.Local().Format("15:04"), ms(a.Answered.Sub(a.Sent)))
		}
	}
	var list []api.OTP
	a, err := d.operator.call(ctx, apiRequest{Method: http.MethodGet, Path: "/api/v1/otps"}, nil, &list)
	if err != nil {
		return err
	}
	r.figure("codes", len(list))
	r.check(len(list) == len(d.codes), "%d codes listed", len(list))
	secret := strings.ReplaceAll(d.codes["alice-laptop"].Code, "-", "")[8:]
	r.check(!bytes.Contains(a.Body, []byte(secret[:16])) && !bytes.Contains(a.Body, []byte(d.codes["alice-laptop"].Code)), "the list shows no secret")
	_, err = d.operator.call(ctx, apiRequest{Method: http.MethodPost, Path: "/api/v1/otps", Token: true}, api.OTPRequest{User: "mallory"}, nil)
	r.check(errors.Is(err, errStatus), "the management server's token may not create one: %v", trim(err))
	return nil
}

func ms(t time.Duration) string { return fmt.Sprintf("%.1f ms", float64(t)/float64(time.Millisecond)) }

func trim(err error) string {
	if err == nil {
		return "it could"
	}
	text := err.Error()
	if _, rest, ok := strings.Cut(text, "refused: "); ok {
		return rest
	}
	return text
}

// refuseCodes is step b.
func (d *demo) refuseCodes(ctx context.Context, r *result) error {
	var good refusal
	if err := once(ctx, d.net.Dev2, "refused", d.codes["bob-laptop"].Code, &good, d.enrollURL()); err != nil {
		return err
	}
	r.check(good.Kind == "genp" && good.Error == "", "the same message with a good code is answered (%d bytes), so it is the code that counts", len(good.Body))
	if err := d.spoilCodes(ctx); err != nil {
		return err
	}
	bad, err := d.badCodes()
	if err != nil {
		return err
	}
	var first refusal
	alike, answers, said := true, 0, map[string]bool{}
	for i, kind := range []string{"wrong", "expired", "cancelled", "used"} {
		raw, err := d.untilRefused(ctx, bad[kind])
		if err != nil {
			return fmt.Errorf("%s code: %w", kind, err)
		}
		if i == 0 {
			first = raw
		}
		same := raw.Kind == "error" && bytes.Equal(raw.Body, first.Body) && raw.Status == first.Status && raw.Type == first.Type
		alike = alike && same
		answers++
		var e enrolled
		if err := once(ctx, d.net.Dev1, "enroll", bad[kind], &e, filepath.Join(d.net.Dev1.Dir(), "refused-"+kind), d.enrollURL()); err != nil {
			return err
		}
		said[e.Error] = true
		note := ""
		if kind == "used" {
			note = fmt.Sprintf(" (after the %s in which its device may ask again for a lost answer)", repeatFor)
		}
		r.check(same && e.Error != "", "%s code%s: HTTP %d, %d bytes, SHA-256 %s…", kind, note, raw.Status, len(raw.Body), short(raw.Body))
	}
	d.uniform = first.Body
	r.figure("codes_refused", answers)
	r.figure("answer_bytes", len(first.Body))
	r.figure("answers_identical", alike)
	r.check(alike, "all four answers are the same bytes")
	var text string
	for text = range said {
	}
	r.figure("messages", len(said))
	r.check(len(said) == 1 && text != "", "and lazaret enroll says the same each time: %s", text)
	return nil
}

// spoilCodes uses one code, cancels one, and waits for one to expire.
func (d *demo) spoilCodes(ctx context.Context) error {
	var e enrolled
	if err := once(ctx, d.net.Dev2, "enroll", d.codes["used"].Code, &e, filepath.Join(d.net.Dev2.Dir(), "carol"), d.enrollURL()); err != nil {
		return err
	}
	if e.Error != "" {
		return fmt.Errorf("using a code: %s", e.Error)
	}
	cancel := apiRequest{Method: http.MethodDelete, Path: "/api/v1/otps/" + d.codes["cancelled"].Reference}
	if _, err := d.operator.call(ctx, cancel, nil, nil); err != nil {
		return err
	}
	want := map[string]string{"expired": "expired", "cancelled": "cancelled", "used": "confirmed"}
	return until(ctx, 100*time.Millisecond, func() (bool, error) {
		var list []api.OTP
		if err := d.operator.get(ctx, "/api/v1/otps", &list); err != nil {
			return false, err
		}
		n := 0
		for _, o := range list {
			for name, state := range want {
				if o.Reference == d.codes[name].Reference && o.State == state {
					n++
				}
			}
		}
		return n == len(want), nil
	})
}

// badCodes are the four; the wrong one has the reference of a good one.
func (d *demo) badCodes() (map[string]string, error) {
	good, err := code.Parse(d.codes["bob-laptop"].Code)
	if err != nil {
		return nil, err
	}
	wrong, err := alter(good)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"wrong": wrong, "expired": d.codes["expired"].Code, "cancelled": d.codes["cancelled"].Code, "used": d.codes["used"].Code,
	}, nil
}

// alter returns a code with another secret that reads well: the check symbol finds
// slips of the finger, so the one that fits is looked for.
func alter(c code.Code) (string, error) {
	symbols := "0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U"
	text := strings.ReplaceAll(c.String(), "-", "")
	flipped := byte('0')
	if text[8] == '0' {
		flipped = '1'
	}
	for _, last := range symbols {
		altered := text[:8] + string(flipped) + text[9:24] + string(last)
		if p, err := code.Parse(altered); err == nil && p.Secret != c.Secret {
			return altered, nil
		}
	}
	return "", errors.New("no check symbol fits the altered code")
}

// untilRefused asks until the answer is a refusal: a used code's own device could ask
// for a lost answer again for a short while.
func (d *demo) untilRefused(ctx context.Context, text string) (refusal, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var raw refusal
	return raw, until(ctx, 200*time.Millisecond, func() (bool, error) {
		raw = refusal{}
		err := once(ctx, d.net.Dev2, "refused", text, &raw, d.enrollURL())
		return raw.Kind == "error", err
	})
}

// enrollDevices is step c.
func (d *demo) enrollDevices(ctx context.Context, r *result) error {
	d.honest = device{host: d.net.Dev1, dir: filepath.Join(d.net.Dev1.Dir(), "agent")}
	d.rogue = device{host: d.net.Dev2, dir: filepath.Join(d.net.Dev2.Dir(), "agent")}
	for _, x := range []struct {
		device *device
		code   string
	}{{&d.honest, "alice-laptop"}, {&d.rogue, "bob-laptop"}} {
		began := time.Now()
		e := &x.device.enrolled
		if err := once(ctx, x.device.host, "enroll", d.codes[x.code].Code, e, x.device.dir, d.enrollURL()); err != nil {
			return err
		}
		if e.Error != "" {
			return errors.New(e.Error)
		}
		took := time.Since(began)
		if err := x.device.addresses(); err != nil {
			return err
		}
		var kept api.Device
		if err := d.operator.get(ctx, "/api/v1/devices/"+e.Name, &kept); err != nil {
			return err
		}
		r.figure(e.Name, map[string]any{"enroll_ms": took.Milliseconds(), "certificate": e.Serial, "addresses": e.Addresses, "stage": kept.Stage})
		r.check(kept.Stage == "quarantined" && sameNumber(kept.Certificate, e.Serial),
			"%s on %s: certificate %s… until %s, %s and %s, %s; %d ms with a new process", e.Name, x.device.host.Name(), e.Serial[:8],
			e.NotAfter.Format("2006-01-02"), x.device.quarantine.V4, x.device.quarantine.V6, kept.Stage, took.Milliseconds())
	}
	return nil
}

// sameNumber compares hexadecimal numbers, whatever zeros they begin with.
func sameNumber(a, b string) bool {
	return strings.EqualFold(strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0"))
}

// addresses works out both pools' addresses: they have the seat's number in common.
func (v *device) addresses() error {
	for _, p := range v.enrolled.Addresses {
		if p.Addr().Is4() {
			v.quarantine.V4 = p.Addr()
		} else {
			v.quarantine.V6 = p.Addr()
		}
	}
	if !quarantine4.Contains(v.quarantine.V4) || !quarantine6.Contains(v.quarantine.V6) {
		return fmt.Errorf("%s has addresses outside of the pool: %v", v.enrolled.Name, v.enrolled.Addresses)
	}
	f4, q4 := full4.Addr().As4(), v.quarantine.V4.As4()
	f6, q6 := full6.Addr().As16(), v.quarantine.V6.As16()
	copy(f4[2:], q4[2:])
	copy(f6[8:], q6[8:])
	v.full = testnet.Both{V4: netip.AddrFrom4(f4), V6: netip.AddrFrom16(f6)}
	return nil
}
