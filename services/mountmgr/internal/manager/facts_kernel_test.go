//go:build kernel

package manager_test

import (
	"testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
)

// requests counts what the mount manager asked of the API server.
func requests(n *nodetest.Node) (gets, creates int) {
	for _, action := range n.Kubelet.Client.Actions() {
		switch action.GetVerb() {
		case "get":
			gets++
		case "create":
			creates++
		}
	}
	return gets, creates
}

func TestAPublishAsksTheAPIServerLittle(t *testing.T) {
	n := nodetest.NewNode(t)
	dynamicVolume(t, n, "pv-1", "fast")
	n.Kubelet.Client.ClearActions()
	record := publish(t, n, "pv-1", n.Target("pv-1"))
	if gets, creates := requests(n); gets != 2 || creates == 0 { // A start whose INIT request was not learned is repeated.
		t.Errorf("cold: %d gets and %d creates", gets, creates)
	}
	if record.Inputs.Claim.Name != "pv-1" || record.Inputs.StorageClass != "fast" {
		t.Errorf("the claim is not known: %+v", record.Inputs)
	}
	n.Kubelet.Client.ClearActions()
	publish(t, n, "pv-1", n.Target("again"))
	publish(t, n, "pv-1", n.Target("again"))
	if gets, creates := requests(n); gets != 0 || creates != 0 {
		t.Errorf("warm: %d gets and %d creates", gets, creates)
	}
}
