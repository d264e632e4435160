package cmp

import "golang.org/x/crypto/cryptobyte/asn1"

// revocation reads RevDetails; of the CRL entry's extensions only the reason counts.
func (r *reader) revocation() Revocation {
	r = r.enter(asn1.SEQUENCE, "revocation")
	v := Revocation{Template: r.template(), Reason: -1}
	if r.in.PeekASN1Tag(asn1.SEQUENCE) {
		for _, e := range r.extensions(asn1.SEQUENCE) {
			if e.ID == idReason {
				v.Reason = r.reason(e.Value)
			}
		}
	}
	r.end("a revocation")
	return v
}

func (r *reader) reason(der []byte) int {
	v := r.sub(der)
	b := v.bytes(asn1.ENUM, "reason")
	v.end("the reason")
	if len(b) != 1 || b[0] > 10 {
		r.fail("reason")
		return -1
	}
	return int(b[0])
}

func (v Revocation) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		v.Template.add(b)
		if v.Reason < 0 {
			return
		}
		var reason builder
		reason.AddASN1Enum(int64(v.Reason))
		addList(b, []Extension{{ID: idReason, Value: reason.BytesOrPanic()}}, func(b *builder, e Extension) { e.add(b) })
	})
}

// revoked reads RevRepContent; CRLs in it are skipped.
func (r *reader) revoked(body *Body) {
	r = r.enter(asn1.SEQUENCE, "revocation reply")
	r.list(asn1.SEQUENCE, "revocation status", func(l *reader) { body.Revoked = append(body.Revoked, l.statusInfo()) })
	if ids, ok := r.optional(context(0), "revCerts"); ok {
		ids.list(asn1.SEQUENCE, "revCerts", func(l *reader) { body.RevokedIDs = append(body.RevokedIDs, l.certID()) })
		ids.end("revCerts")
	}
	if _, ok := r.optional(context(1), "crls"); ok {
		r.end("crls")
	}
	r.end("a revocation reply")
}

func (body Body) addRevoked(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		addList(b, body.Revoked, func(b *builder, s StatusInfo) { s.add(b) })
		if len(body.RevokedIDs) > 0 {
			b.AddASN1(context(0), func(b *builder) {
				addList(b, body.RevokedIDs, func(b *builder, id CertID) { id.add(b) })
			})
		}
	})
}
