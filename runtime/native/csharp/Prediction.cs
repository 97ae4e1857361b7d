using System;
using System.Globalization;

namespace Blastscope
{
    /// <summary>What a cell is called.</summary>
    public enum Label
    {
        /// <summary>A normal cell.</summary>
        Hem = 0,
        /// <summary>A malignant lymphoblast.</summary>
        All = 1,
    }

    /// <summary>Classes that can't be excluded.</summary>
    [Flags]
    public enum LabelSet
    {
        /// <summary>None.</summary>
        None = 0,
        /// <summary>Normal.</summary>
        Hem = 1,
        /// <summary>Malignant.</summary>
        All = 2,
    }

    /// <summary>The networks that vote.</summary>
    public enum Voter
    {
        /// <summary>Network A.</summary>
        A = 0,
        /// <summary>Network B.</summary>
        B = 1,
        /// <summary>The combined network.</summary>
        Combined = 2,
    }

    /// <summary>Why an image got no label, by the numbers of blastscope.h, which says more of each.</summary>
    public enum Refusal
    {
#pragma warning disable 1591
        None = 0,
        Undecodable = 1,
        Bomb = 2,
        Not8BitRgb = 3,
        Empty = 4,
        NotOnBlack = 5,
        TouchesBorder = 6,
        TooSmall = 7,
        TooLarge = 8,
        Clumped = 9,
        OutOfFocus = 10,
        NotLymphoid = 11,
        UnlikeTraining = 12,
        Failed = 13,
        Unsegmented = 14,
#pragma warning restore 1591
    }

    /// <summary>A cell's place: pixels of the image, half-open.</summary>
    public readonly struct Box
    {
        internal Box(int x0, int y0, int x1, int y1)
        {
            X0 = x0;
            Y0 = y0;
            X1 = x1;
            Y1 = y1;
        }

        /// <summary>The first column.</summary>
        public int X0 { get; }

        /// <summary>The first row.</summary>
        public int Y0 { get; }

        /// <summary>The column behind the last one.</summary>
        public int X1 { get; }

        /// <summary>The row below the last one.</summary>
        public int Y1 { get; }

        /// <inheritdoc/>
        public override string ToString()
        {
            return $"[{X0}, {Y0}, {X1}, {Y1}]";
        }
    }

    /// <summary>The call on one image, or the reason why there is none.</summary>
    public sealed class Prediction
    {
        private readonly float[] probabilities = new float[6];

        internal unsafe Prediction(NativePrediction* found)
        {
            if (found->Label >= 0) Label = (Label)found->Label;
            if (found->Voter >= 0) Voter = (Voter)found->Voter;
            Refusal = (Refusal)found->Refusal;
            RefusalCode = Native.Text(Native.blastscope_refusal_name(found->Refusal));
            Probability = found->Probability;
            Score = found->Score;
            for (int i = 0; i < 6; i++) probabilities[i] = found->Probabilities[i];
            Novelty = found->Novelty;
            if (found->Set >= 0) Set = (LabelSet)found->Set;
            DecidedEarly = found->DecidedEarly != 0;
            if (found->HasBox != 0) Box = new Box(found->Box[0], found->Box[1], found->Box[2], found->Box[3]);
            Detail = Native.Text(found->Detail, 256);
        }

        /// <summary>The label; null where the image was refused.</summary>
        public Label? Label { get; }

        /// <summary>The voter that decided; null where the image was refused.</summary>
        public Voter? Voter { get; }

        /// <summary>Why there is no label.</summary>
        public Refusal Refusal { get; }

        /// <summary>The same as Python says it, such as "touches-border"; "" where there is a label.</summary>
        public string RefusalCode { get; }

        /// <summary>What to tell a person about the refusal; "" where there is none.</summary>
        public string Detail { get; }

        /// <summary>The deciding voter's probability of the label, 0 to 1; NaN where the image was refused.</summary>
        public float Probability { get; }

        /// <summary>The deciding voter's probability of ALL, 0 to 1: put thresholds on this. NaN where the image was refused.</summary>
        public float Score { get; }

        /// <summary>The distance from the training's cells, about 1 for one of them; NaN where it isn't measured.</summary>
        public float Novelty { get; }

        /// <summary>The classes that can't be excluded; null where the bundle has no levels for it.</summary>
        public LabelSet? Set { get; }

        /// <summary>Whether a cascade's first voter decided alone.</summary>
        public bool DecidedEarly { get; }

        /// <summary>Where the cell lies; null where none was found.</summary>
        public Box? Box { get; }

        /// <summary>A voter's probability of a class; NaN where the image was refused, or that voter was not run.</summary>
        public float ProbabilityOf(Voter voter, Label label)
        {
            return probabilities[2 * (int)voter + (int)label];
        }

        /// <inheritdoc/>
        public override string ToString()
        {
            if (Label == null) return "refused as " + RefusalCode + ": " + Detail;
            return string.Format(CultureInfo.InvariantCulture, "{0} {1:F4}", Label == Blastscope.Label.All ? "all" : "hem", Probability);
        }
    }
}
