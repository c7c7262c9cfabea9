"""The verifier `choice`: answers to multiple-choice questions, by letter or by the text of an option."""
