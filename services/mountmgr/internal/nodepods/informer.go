package nodepods

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// syncTimeout bounds the wait for the first list.
const syncTimeout = 30 * time.Second

// Informer watches the pods of one node at the API server. It is for one
// goroutine.
type Informer struct {
	client kubernetes.Interface
	node   string

	store cache.Store
	stop  func()
}

// NewInformer does not watch yet.
func NewInformer(client kubernetes.Interface, node string) *Informer {
	return &Informer{client: client, node: node}
}

// List returns the pods as the API server last told; the first call begins the
// watch and waits for it, for 30 s at the most.
func (i *Informer) List(ctx context.Context) (Pods, error) {
	if i.store == nil {
		if err := i.start(ctx); err != nil {
			i.Stop()
			return nil, err
		}
	}
	pods := make(Pods)
	for _, object := range i.store.List() {
		if found, ok := object.(*corev1.Pod); ok {
			pods[found.UID] = PodState{
				Namespace: found.Namespace, Name: found.Name,
				Phase: found.Status.Phase, Deleting: found.DeletionTimestamp != nil,
			}
		}
	}
	return pods, nil
}

func (i *Informer) start(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(i.client, 0,
		informers.WithTransform(identity),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", i.node).String()
		}))
	informer := factory.Core().V1().Pods().Informer()
	watch, cancel := context.WithCancel(ctx)
	i.stop = func() {
		cancel()
		factory.Shutdown()
	}
	factory.Start(watch.Done())
	waiting, done := context.WithTimeout(watch, syncTimeout)
	defer done()
	if !cache.WaitForCacheSync(waiting.Done(), informer.HasSynced) {
		return fmt.Errorf("watch the pods of node %s: no list within %s: %w", i.node, syncTimeout, errdefs.ErrUnavailable)
	}
	i.store = informer.GetStore()
	return nil
}

// Stop ends the watch and frees its memory.
func (i *Informer) Stop() {
	if i.stop != nil {
		i.stop()
	}
	i.store, i.stop = nil, nil
}

// identity drops everything but which pod it is and whether it ends.
func identity(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID,
			ResourceVersion: pod.ResourceVersion, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}, nil
}
