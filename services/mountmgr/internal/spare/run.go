package spare

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/version"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// startTimeout bounds the start of a spare: its image may have to be pulled.
	startTimeout = 5 * time.Minute
	// reconnectTimeout bounds the attempt to reach a jfs-launch that is either
	// listening or dead.
	reconnectTimeout = 2 * time.Second
	// deleteTimeout bounds the deletion of a pod.
	deleteTimeout = 15 * time.Second
	// suffixLen is how many characters make the name of a spare its own.
	suffixLen = 6
)

// Resume reads what is recorded and takes up the spares that a mount manager
// before this one has left, for which it waits up to 2 s. It must come before
// Run and before the first PodChanged, which tells strays from spares. Its end
// comes with that of ctx.
func (p *Pool) Resume(ctx context.Context) error {
	if err := p.load(); err != nil {
		return err
	}
	p.reconnect(ctx)
	return nil
}

func (p *Pool) load() error {
	shapes, err := p.store.Shapes()
	if err != nil {
		return err
	}
	spares, err := p.store.Spares()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range shapes {
		if now, err := mountpod.ShapeKey(p.spec("", each.Pod)); err != nil || now != each.Key {
			if err := p.store.DeleteShape(each.Key); err != nil { // This release makes other pods of it.
				return err
			}
			continue
		}
		p.shapes[each.Key] = &shape{Shape: each}
	}
	for _, each := range spares {
		p.spares[each.PodName] = &spare{Spare: each, making: true, stop: make(chan struct{})}
	}
	return nil
}

// Run keeps the spares until ctx ends, which leaves them as they are. inUse
// returns the keys of the shapes that mounts of the node have.
func (p *Pool) Run(ctx context.Context, inUse func() map[string]bool) error {
	defer p.rest()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.reconcile(ctx, inUse()))
	}
}

// rest waits for what goes on and lets go of the spares.
func (p *Pool) rest() {
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range p.spares {
		if each.session != nil && !each.taken {
			each.session.Close()
		}
	}
}

func (p *Pool) reconnect(ctx context.Context) {
	var met sync.WaitGroup
	p.mu.Lock()
	for _, left := range p.spares {
		met.Go(func() {
			if p.meet(ctx, left, p.findAgain) {
				p.running.Go(func() { p.guard(ctx, left) })
			}
		})
	}
	p.mu.Unlock()
	met.Wait()
}

// findAgain reaches a spare that must be there; a jfs-launch of another release
// is not used any more.
func (p *Pool) findAgain(ctx context.Context, s store.Spare) (*launcher.Session, error) {
	if s.PodUID == "" {
		return nil, fmt.Errorf("spare mount pod %s was not made: %w", s.PodName, errUnwanted)
	}
	ctx, cancel := context.WithTimeout(ctx, reconnectTimeout)
	defer cancel()
	session, err := p.Reconnect(ctx, s.Client())
	if err == nil && session.LauncherRelease() != version.Release() {
		session.Close()
		return nil, fmt.Errorf("spare mount pod %s has a jfs-launch of another release: %w", s.PodName, errUnwanted)
	}
	return session, err
}

// meet makes a spare ready that find reaches, or ends it; it tells which.
func (p *Pool) meet(ctx context.Context, s *spare, find func(context.Context, store.Spare) (*launcher.Session, error)) bool {
	session, err := find(ctx, s.Spare)
	if err == nil && session.Status().GetState() != launchv1.Status_STATE_IDLE {
		session.Close()
		err = fmt.Errorf("spare mount pod %s is not idle: %w", s.PodName, errdefs.ErrFailedPrecondition)
	}
	if ctx.Err() != nil {
		if err == nil {
			session.Close()
		}
		return false // The next mount manager goes on.
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.making = false
	p.poke()
	switch {
	case err != nil:
		p.end(s, err)
	case s.ended != nil:
		session.Close()
	default:
		s.session, s.since = session, time.Now()
		p.log.InfoContext(ctx, "spare mount pod ready", logkeys.Pod, s.PodName, logkeys.Image, s.Image)
	}
	return s.session != nil
}

// guard notices the end of an idle jfs-launch.
func (p *Pool) guard(ctx context.Context, s *spare) {
	select {
	case <-ctx.Done():
	case <-s.stop:
	case <-s.session.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		p.end(s, fmt.Errorf("jfs-launch of spare mount pod %s has ended: %w", s.PodName, errdefs.ErrUnavailable))
	}
}

// reconcile begins what is to be done, and returns when to look again.
func (p *Pool) reconcile(ctx context.Context, inUse map[string]bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.options.Retention / 10
	for key, each := range p.shapes {
		if inUse[key] {
			p.touch(each, each.Pod)
		}
		next = min(next, p.fill(ctx, each, p.wanted(each, inUse[key])))
	}
	for _, each := range p.spares {
		if p.shapes[each.Shape] == nil && !each.taken {
			p.end(each, errUnwanted)
		}
		if each.ended == nil || each.taken || each.making || each.removing {
			continue
		}
		if wait := each.retry.due(); wait > 0 {
			next = min(next, wait)
			continue
		}
		each.removing = true
		p.running.Go(func() { p.remove(ctx, each) })
	}
	return next
}

// wanted is how many spares of a shape there should be.
func (p *Pool) wanted(s *shape, inUse bool) int {
	if !inUse && time.Since(s.LastUsed) > p.options.Retention {
		return 0
	}
	return p.count
}

// fill makes what is missing of a shape and ends what is too much. It returns
// when to look again. It runs under p.mu.
func (p *Pool) fill(ctx context.Context, s *shape, wanted int) time.Duration {
	have := 0
	for _, each := range p.spares {
		if each.Shape != s.Key || each.taken || each.ended != nil {
			continue
		}
		if have++; have > wanted {
			p.end(each, errUnwanted)
		}
	}
	if wanted == 0 {
		if err := p.store.DeleteShape(s.Key); err != nil {
			p.log.WarnContext(ctx, "forget shape of mount pods", logkeys.Error, err)
			return firstPause
		}
		delete(p.shapes, s.Key)
		return p.options.Retention
	}
	if wait := s.pace.due(); have < wanted && wait > 0 {
		return wait
	}
	for ; have < wanted; have++ {
		name := mountpod.Name(p.options.Node, "spare", strings.ToLower(rand.Text()[:suffixLen]))
		made := &spare{
			Spare: store.Spare{
				PodName: name, Image: s.Pod.Image, Shape: s.Key, CreatedAt: time.Now().UTC(), RunAsUser: uint32(s.Pod.UID()),
			},
			making: true, stop: make(chan struct{}),
		}
		p.spares[name] = made
		spec := p.spec(name, s.Pod)
		p.running.Go(func() { p.create(ctx, made, spec) })
	}
	return p.options.Retention
}

// create makes the pod of a spare, which is recorded before it is made.
func (p *Pool) create(ctx context.Context, s *spare, spec mountpod.Spec) {
	ready := p.meet(ctx, s, func(ctx context.Context, record store.Spare) (*launcher.Session, error) {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if err := p.store.PutSpare(record); err != nil {
			return nil, err
		}
		uid, err := p.CreateSpare(ctx, spec, record.Shape)
		if err != nil {
			return nil, err
		}
		record.PodUID = uid
		if err := p.store.PutSpare(record); err != nil {
			return nil, err
		}
		p.mu.Lock()
		s.PodUID = uid
		p.mu.Unlock()
		return p.connect(ctx, record, s.stop)
	})
	if ready {
		p.guard(ctx, s)
	}
}

// connect waits for the jfs-launch of a new spare, unless it ends before.
func (p *Pool) connect(ctx context.Context, s store.Spare, stop <-chan struct{}) (*launcher.Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return p.Connect(ctx, s.Client())
}

// remove deletes the pod of a spare and forgets it.
func (p *Pool) remove(ctx context.Context, s *spare) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	p.mu.Lock()
	session, client := s.session, s.Client()
	p.mu.Unlock()
	if session != nil {
		session.Close()
	}
	err := p.Delete(ctx, client, 0)
	if err == nil {
		err = p.store.DeleteSpare(client.PodName)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.poke()
	s.removing = false
	if err == nil {
		delete(p.spares, client.PodName)
		return
	}
	s.retry.fail()
	if !errors.Is(err, context.Canceled) {
		p.log.WarnContext(ctx, "delete spare mount pod", logkeys.Pod, client.PodName, logkeys.Error, err)
	}
}
