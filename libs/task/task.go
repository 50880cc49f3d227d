// Package task runs the long-running parts of a service together.
package task

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// Group runs named functions until the first of them fails. The zero value is
// not usable; see NewGroup.
type Group struct {
	ctx    context.Context //nolint:containedctx // the group is the lifetime that the context stands for
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mutex  sync.Mutex
	errors []error
}

// NewGroup makes a group whose functions get a context that ends with ctx, or
// when one of them fails.
func NewGroup(ctx context.Context) *Group {
	ctx, cancel := context.WithCancel(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Go starts run. An error of it ends the others, a panic is an error with its
// stack; to return nil early ends nobody.
func (g *Group) Go(name string, run func(context.Context) error) {
	g.wait.Go(func() {
		if err := protect(g.ctx, run); err != nil {
			g.fail(name, err)
		}
	})
}

// Wait blocks until all functions have returned, and returns their errors with
// the first one first. The end of the context is not an error.
func (g *Group) Wait() error {
	g.wait.Wait()
	g.cancel()
	return errors.Join(g.errors...)
}

func (g *Group) fail(name string, err error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	// A function that was told to end may say so.
	if g.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return
	}
	g.errors = append(g.errors, fmt.Errorf("%s: %w", name, err))
	g.cancel()
}

func protect(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return run(ctx)
}
