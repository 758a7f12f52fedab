package openlimit

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Refusal is what the service says about a request that it refuses. Nothing was charged.
type Refusal struct {
	Code    codes.Code
	Message string
	// Reason is a name such as "UNKNOWN_MODEL", and Metadata what belongs to it. Both are empty where
	// the error is not the service's own. The proto lists them.
	Reason   string
	Metadata map[string]string
	// RetryAfter is when a call whose max_wait was too short could start, nil for other refusals.
	RetryAfter *time.Duration
}

// RefusalOf reads what an error says: any that has come from gRPC or this package.
func RefusalOf(err error) Refusal {
	said := status.Convert(err)
	refusal := Refusal{Code: said.Code(), Message: said.Message()}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			refusal.Reason, refusal.Metadata = detail.Reason, detail.Metadata
		case *errdetails.RetryInfo:
			after := detail.RetryDelay.AsDuration()
			refusal.RetryAfter = &after
		}
	}
	return refusal
}

// TicketOf returns the ticket of a call that waits in line, "" for any other error.
func TicketOf(err error) string {
	if refusal := RefusalOf(err); refusal.Reason == "QUEUED" {
		return refusal.Metadata["ticket"]
	}
	return ""
}
