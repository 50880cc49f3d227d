package app

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/configfile"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/facts"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodepods"
)

// sources are what the mount manager learns about volumes, the node and its
// own settings.
type sources struct {
	config *configfile.File
	facts  *facts.Source
	node   *facts.Node
	pods   *nodepods.Source
}

// newSources reads the ConfigMap and asks nobody yet; without a client there is
// nobody to ask. ctx bounds the sending of events.
func newSources(
	ctx context.Context, o Options, env environment, client kubernetes.Interface, registry prometheus.Registerer, log *slog.Logger,
) (sources, error) {
	settings := configfile.Options{Path: o.ConfigFile, Log: log, Registry: registry}
	if client != nil {
		settings.Report = configEvents(ctx, client, o.NodeName, log)
	}
	config, err := configfile.Open(settings)
	if err != nil || client == nil {
		return sources{config: config}, err
	}
	pods, err := nodepods.New(nodepods.Options{
		Kubelet: kubelet(ctx, o, env, log), Fallback: nodepods.NewInformer(client, o.NodeName),
		KubeletDir: o.KubeletDir, Interval: o.ReconcilerInterval, Log: log, Registry: registry,
	})
	if err != nil {
		return sources{}, err
	}
	return sources{
		config: config,
		facts:  facts.NewSource(client, o.DriverName, o.KubeletDir),
		node: facts.NewNode(client, o.NodeName, func() bool {
			present, err := config.Config()
			return err == nil && present.NeedsNode()
		}),
		pods: pods,
	}, nil
}

func (s sources) run(group *task.Group) {
	group.Go("configuration", s.config.Run)
	if s.pods == nil {
		return
	}
	group.Go("node", s.node.Run)
	group.Go("pods", s.pods.Run)
}

// complete gives the manager its sources; without Kubernetes it has none.
func (s sources) complete(parts *manager.Parts) {
	if s.pods != nil {
		parts.Facts, parts.Node, parts.Pods = s.facts, s.node, s.pods
	}
}

// kubelet is nil when it shall not or cannot be asked; the API server is then.
func kubelet(ctx context.Context, o Options, env environment, log *slog.Logger) nodepods.Lister {
	if !o.KubeletPods || env.hostIP == "" {
		return nil
	}
	asked, err := nodepods.NewKubelet(nodepods.KubeletOptions{
		Host: env.hostIP, Port: env.kubeletPort, Insecure: o.KubeletTLS == kubeletInsecure, CAFile: o.KubeletCA,
		TokenFile: serviceAccountDir + "/token", CertFile: env.kubeletCert, KeyFile: env.kubeletKey, Timeout: env.kubeletTimeout,
	})
	if err != nil {
		log.WarnContext(ctx, "kubelet is not asked for the pods of the node; the API server is", logkeys.Error, err)
		return nil
	}
	return asked
}

// messageLimit is what the API server takes as the message of an event.
const messageLimit = 1024

// configEvents tells on the node what is wrong with the ConfigMap.
func configEvents(ctx context.Context, client kubernetes.Interface, node string, log *slog.Logger) func(error) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		log.WarnContext(ctx, "no events about the ConfigMap", logkeys.Error, err)
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, program)
	// Tools look for events of a node by its name in place of the uid.
	reference := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)}
	return func(fault error) {
		if fault == nil {
			recorder.Eventf(reference, nil, corev1.EventTypeNormal, "ConfigAccepted", "ReadConfig",
				"the ConfigMap of the JuiceFS driver is used again")
			return
		}
		message := "the ConfigMap of the JuiceFS driver is not used: " + fault.Error()
		recorder.Eventf(reference, nil, corev1.EventTypeWarning, "ConfigInvalid", "ReadConfig", "%s", message[:min(len(message), messageLimit)])
	}
}
