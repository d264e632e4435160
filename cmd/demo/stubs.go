package main

import "context"

func (d *demo) cut(ctx context.Context, r *result) error          { return nil }
func (d *demo) checkSession(ctx context.Context, r *result) error { return nil }
func (d *demo) killControl(ctx context.Context, r *result) error  { return nil }
func (d *demo) expireLease(ctx context.Context, r *result) error  { return nil }
func (d *demo) revoke(ctx context.Context, r *result) error       { return nil }
