// Package startuptaint takes away the taint that keeps pods off a new node
// until volumes can be mounted there.
package startuptaint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

const (
	// keySuffix follows the driver's name in the key of the taint.
	keySuffix = "/agent-not-ready"
	// firstRetry and lastRetry pace attempts while the node is not ready, or the
	// API server does not let the taint go.
	firstRetry, lastRetry = time.Second, 15 * time.Second
	// For checkFor the node is looked at every checkInterval, whatever the watch
	// tells: somebody may put the taint back while the node comes up.
	checkFor, checkInterval = 10 * time.Minute, time.Minute
	// attemptTimeout bounds one attempt.
	attemptTimeout = 30 * time.Second
)

// errNotReady says that the taint is there for a reason.
var errNotReady = errors.New("the node cannot mount yet")

// Options say whose taint goes when.
type Options struct {
	Node string
	// Driver is the name of the CSI driver; the taint's key is Driver +
	// "/agent-not-ready".
	Driver string
	// Ready returns nil when this mount manager can mount.
	Ready func(ctx context.Context) error
	Log   *slog.Logger
}

// Remover takes the taint away.
type Remover struct {
	client  kubernetes.Interface
	options Options
	changed chan struct{}
}

// New returns a remover that has done nothing.
func New(client kubernetes.Interface, options Options) *Remover {
	return &Remover{client: client, options: options, changed: make(chan struct{}, 1)}
}

// Run takes the taint away whenever it is there and the node can mount, until
// ctx ends. Failures are retried and logged: none of them ends the caller.
func (r *Remover) Run(ctx context.Context) error {
	stop, err := r.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	began, failures, told := time.Now(), 0, ""
	for ctx.Err() == nil {
		err := r.attempt(ctx)
		if err == nil {
			failures, told = 0, ""
		} else {
			failures++
			if text := err.Error(); text != told && ctx.Err() == nil {
				told = text
				r.options.Log.WarnContext(ctx, "startup taint stays", logkeys.Node, r.options.Node, logkeys.Error, err)
			}
		}
		r.rest(ctx, pace(failures, time.Since(began)))
	}
	return nil
}

// pace is the time to the next attempt; 0 for never, but when the node changes.
func pace(failures int, age time.Duration) time.Duration {
	switch {
	case failures > 0:
		return min(firstRetry<<min(failures-1, 10), lastRetry)
	case age < checkFor:
		return checkInterval
	}
	return 0
}

// rest waits for d, or for ever when it is 0, or until the node has the taint.
func (r *Remover) rest(ctx context.Context, d time.Duration) {
	var due <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-due:
	case <-r.changed:
	}
}

// watch makes r.changed ready when the node has the taint.
func (r *Remover) watch(ctx context.Context) (stop func(), err error) {
	factory := informers.NewSharedInformerFactoryWithOptions(r.client, 0,
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", r.options.Node).String()
		}))
	look := func(object any) {
		if node, ok := object.(*corev1.Node); !ok || node.Name != r.options.Node || !r.tainted(node) {
			return
		}
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	_, err = factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look, UpdateFunc: func(_, object any) { look(object) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch node %s: %w", r.options.Node, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	return func() {
		cancel()
		factory.Shutdown()
	}, nil
}

// trim keeps what is looked at of a node.
func trim(object any) (any, error) {
	if node, ok := object.(*corev1.Node); ok {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
			Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
		}, nil
	}
	return object, nil
}

// attempt takes the taint away if it is there and need not be.
func (r *Remover) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	node, err := r.client.CoreV1().Nodes().Get(ctx, r.options.Node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", r.options.Node, err)
	}
	if !r.tainted(node) {
		return nil
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	return r.remove(ctx, node)
}

// ready fails with errNotReady while a pod on the node could not get a volume.
func (r *Remover) ready(ctx context.Context) error {
	if err := r.options.Ready(ctx); err != nil {
		return fmt.Errorf("%w: %w", errNotReady, err)
	}
	node, err := r.client.StorageV1().CSINodes().Get(ctx, r.options.Node, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get CSINode %s: %w", r.options.Node, err)
	}
	registered := err == nil && slices.ContainsFunc(node.Spec.Drivers, func(driver storagev1.CSINodeDriver) bool {
		return driver.Name == r.options.Driver
	})
	if !registered {
		return fmt.Errorf("%w: driver %s is not registered with kubelet", errNotReady, r.options.Driver)
	}
	return nil
}

// remove takes the taint away from the node as it was read, and reads it anew
// when somebody else has changed it.
func (r *Remover) remove(ctx context.Context, node *corev1.Node) error {
	removed := false
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var err error
		if node == nil {
			if node, err = r.client.CoreV1().Nodes().Get(ctx, r.options.Node, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		if !r.tainted(node) {
			return nil
		}
		patch, err := r.patch(node)
		if err != nil {
			return err
		}
		_, err = r.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		node, removed = nil, err == nil
		return err
	})
	if err != nil {
		return fmt.Errorf("remove taint %s of node %s: %w", r.key(), r.options.Node, err)
	}
	if removed {
		r.options.Log.InfoContext(ctx, "startup taint removed", logkeys.Node, r.options.Node, logkeys.Keys, r.key())
	}
	return nil
}

// patch replaces the list of taints, which the API server does only when the
// node is still as it was read.
func (r *Remover) patch(node *corev1.Node) ([]byte, error) {
	type metadata struct {
		UID             types.UID `json:"uid,omitempty"`
		ResourceVersion string    `json:"resourceVersion,omitempty"`
	}
	type spec struct {
		Taints []corev1.Taint `json:"taints"`
	}
	var change struct {
		Metadata metadata `json:"metadata"`
		Spec     spec     `json:"spec"`
	}
	change.Metadata = metadata{UID: node.UID, ResourceVersion: node.ResourceVersion}
	change.Spec.Taints = slices.DeleteFunc(slices.Clone(node.Spec.Taints), r.ours)
	return json.Marshal(change)
}

func (r *Remover) key() string { return r.options.Driver + keySuffix }

func (r *Remover) tainted(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, r.ours)
}

func (r *Remover) ours(taint corev1.Taint) bool {
	return taint.Key == r.key() && (taint.Effect == corev1.TaintEffectNoExecute || taint.Effect == corev1.TaintEffectNoSchedule)
}
